// What guard.c guards against, without chance: an event of descriptor N is missed by the async context A, N is closed and opened again, and is B's when A
// looks after what it has missed. Exit status 0 if that is survived and B gets its own event, and a signal where it is not.
#include <stdlib.h>
#include <unistd.h>

typedef void handler(int fd, unsigned events, void *arg);
int ucs_async_context_create(int mode, void **async);
int ucs_async_set_event_handler(int mode, int fd, int events, handler *h, void *arg, void *async);
int ucs_async_remove_handler(int fd, int sync);
int ucs_async_dispatch_handlers(int *fds, size_t n, int events);
void __ucs_async_poll_missed(void *async);

enum { MODE = 1, READ = 1 };

static void *a, *b;
static int first[2], second[2];
static volatile int heard;

static void missed(int fd, unsigned events, void *arg) {}

static void hear(int fd, unsigned events, void *arg) {
	char c;
	heard += read(fd, &c, 1);
}

static void locked(int fd, unsigned events, void *arg) { // a is, while this runs
	ucs_async_set_event_handler(MODE, second[0], READ, missed, NULL, a);
	if (write(second[1], "x", 1) != 1) {
		exit(2);
	}
	usleep(50000); // libucs's thread finds a locked
	int old = second[0];
	ucs_async_remove_handler(old, 0);
	close(old);
	close(second[1]);
	if (pipe(second) != 0 || second[0] != old) {
		exit(3);
	}
	ucs_async_set_event_handler(MODE, old, READ, hear, NULL, b);
}

int main(void) {
	ucs_async_context_create(MODE, &a);
	ucs_async_context_create(MODE, &b);
	if (pipe(first) != 0 || pipe(second) != 0) {
		return 2;
	}
	ucs_async_set_event_handler(MODE, first[0], READ, locked, NULL, a);
	ucs_async_dispatch_handlers(&first[0], 1, READ);
	__ucs_async_poll_missed(a);
	if (write(second[1], "x", 1) != 1) {
		return 2;
	}
	for (int i = 0; i < 5000 && heard == 0; i++) {
		usleep(1000);
	}
	_exit(heard == 1 ? 0 : 4);
}
