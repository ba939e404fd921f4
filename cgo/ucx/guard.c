//go:build cgo && ucx

// A guard against an abort of libucs (1.13 and all later ones so far).
//
// libucs has a thread that waits for the descriptors and timers of all workers. An event whose worker is locked just then it puts into a queue of that
// worker, which looks at it in its next progress. There it is found by the descriptor's number alone: if that was closed meanwhile, and another
// worker of the process has got the number, libucs aborts in __ucs_async_poll_missed (assertion handler->async == async), or without assertions runs
// the other worker's handler without its lock. A process with many connections that come and go meets that, and a peer can provoke it.
//
// The queue is not needed for descriptors. The thread waits for all of them level-triggered, so it finds the event again at once, and that is what libucs itself
// relies on when an event is missed a second time. So they are kept out of the queue. A definition in the program comes before that of a shared library.
#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>

enum { FIRST_TIMER = 1000000 }; // ids below are descriptors: UCS_ASYNC_TIMER_ID_MIN

typedef ucs_status_t push_func(void *queue, uint64_t value);

static push_func *next;

__attribute__((constructor)) static void find_next(void) { next = (push_func *)dlsym(RTLD_NEXT, "ucs_mpmc_queue_push"); }

// The async thread is all of libucs that calls it. The id is in the upper half of the value. Weak, so that it yields to a libucs that is linked statically.
__attribute__((weak, visibility("default"))) ucs_status_t ucs_mpmc_queue_push(void *queue, uint64_t value) {
	if (value >> 32 < FIRST_TIMER) {
		return UCS_OK;
	}
	return next != NULL ? next(queue, value) : UCS_OK; // a timer comes again, too
}

int pxu_guarded(void) { return next != NULL && dlsym(RTLD_DEFAULT, "ucs_mpmc_queue_push") == (void *)ucs_mpmc_queue_push; }
