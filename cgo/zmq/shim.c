//go:build cgo && zmq

#include "shim.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

_Static_assert(sizeof(zmq_msg_t) == 64, "a zmq_msg_t is kept in eight words of Go memory");

static int result(int rc) { return rc == -1 ? zmq_errno() : 0; }

pp_queue *pp_queue_new(int fd)
{
	pp_queue *q = calloc(1, sizeof *q);
	if (q)
		q->fd = fd;
	return q;
}

pp_ticket *pp_ticket_new(pp_queue *q, uintptr_t handle)
{
	pp_ticket *t = calloc(1, sizeof *t);
	if (t) {
		t->queue = q;
		t->handle = handle;
	}
	return t;
}

pp_ticket *pp_queue_take(pp_queue *q) { return __atomic_exchange_n(&q->done, NULL, __ATOMIC_ACQ_REL); }

void pp_ticket_begin(pp_ticket *t) { __atomic_store_n(&t->pending, 1, __ATOMIC_RELEASE); }

int pp_ticket_end(pp_ticket *t) { return __atomic_sub_fetch(&t->pending, 1, __ATOMIC_ACQ_REL) == 0; }

int pp_ticket_held(pp_ticket *t) { return __atomic_load_n(&t->pending, __ATOMIC_ACQUIRE); }

// Runs wherever libzmq lets go of a part: on an I/O thread, or in the call that failed to send it.
static void released(void *data, void *hint)
{
	pp_ticket *t = hint;
	(void)data;
	if (__atomic_sub_fetch(&t->pending, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	pp_queue *q = t->queue;
	pp_ticket *head = __atomic_load_n(&q->done, __ATOMIC_RELAXED);
	do
		t->next = head;
	while (!__atomic_compare_exchange_n(&q->done, &head, t, 1, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	if (head)
		return; // who put the first one there has written the byte
	while (write(q->fd, "", 1) == -1 && errno == EINTR)
		;
}

int pp_send_copy(void *sock, const char *p, size_t n, int more)
{
	int rc;
	do
		rc = zmq_send(sock, p, n, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
	while (rc == -1 && zmq_errno() == EINTR);
	return result(rc);
}

int pp_send_ref(void *sock, char *p, size_t n, int more, pp_ticket *t)
{
	zmq_msg_t m;
	if (zmq_msg_init_data(&m, p, n, released, t) == -1)
		return zmq_errno();
	__atomic_add_fetch(&t->pending, 1, __ATOMIC_ACQ_REL);
	int rc;
	do
		rc = zmq_msg_send(&m, sock, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
	while (rc == -1 && zmq_errno() == EINTR);
	if (rc != -1)
		return 0;
	int err = zmq_errno();
	zmq_msg_close(&m);
	return err;
}

int pp_recv(void *sock, uint64_t *msg, uintptr_t *data, size_t *size, int *more, int *inside)
{
	zmq_msg_t *m = (zmq_msg_t *)msg;
	zmq_msg_init(m);
	int rc;
	do
		rc = zmq_msg_recv(m, sock, ZMQ_DONTWAIT);
	while (rc == -1 && zmq_errno() == EINTR);
	if (rc == -1)
		return zmq_errno();
	*data = (uintptr_t)zmq_msg_data(m);
	*inside = *data - (uintptr_t)m < sizeof *m;
	if (*inside)
		*data -= (uintptr_t)m;
	*size = zmq_msg_size(m);
	*more = zmq_msg_more(m);
	return 0;
}

void pp_msg_close(uint64_t *msg) { zmq_msg_close((zmq_msg_t *)msg); }

int pp_msg_get(uint64_t *msg, int property) { return zmq_msg_get((zmq_msg_t *)msg, property); }

const char *pp_msg_gets(uint64_t *msg, const char *property) { return zmq_msg_gets((zmq_msg_t *)msg, property); }

int pp_set(void *sock, int option, const char *value, size_t n) { return result(zmq_setsockopt(sock, option, value, n)); }

int pp_get(void *sock, int option, void *value, size_t *n) { return result(zmq_getsockopt(sock, option, value, n)); }

// Negative if it failed.
int pp_events(void *sock)
{
	int events = 0;
	size_t n = sizeof events;
	while (zmq_getsockopt(sock, ZMQ_EVENTS, &events, &n) == -1)
		if (zmq_errno() != EINTR)
			return -zmq_errno();
	return events;
}

int pp_bind(void *sock, const char *endpoint) { return result(zmq_bind(sock, endpoint)); }

int pp_unbind(void *sock, const char *endpoint) { return result(zmq_unbind(sock, endpoint)); }

int pp_connect(void *sock, const char *endpoint) { return result(zmq_connect(sock, endpoint)); }

int pp_monitor(void *sock, const char *endpoint, int events) { return result(zmq_socket_monitor(sock, endpoint, events)); }

int pp_close(void *sock) { return result(zmq_close(sock)); }

int pp_ctx_new(int io_threads, int max_sockets, void **ctx)
{
	if (!(*ctx = zmq_ctx_new()))
		return zmq_errno();
	if (zmq_ctx_set(*ctx, ZMQ_IO_THREADS, io_threads) == -1 || zmq_ctx_set(*ctx, ZMQ_MAX_SOCKETS, max_sockets) == -1) {
		int err = zmq_errno();
		zmq_ctx_term(*ctx);
		return err;
	}
	return 0;
}

int pp_socket(void *ctx, int type, void **sock) { return (*sock = zmq_socket(ctx, type)) ? 0 : zmq_errno(); }

int pp_ctx_shutdown(void *ctx) { return result(zmq_ctx_shutdown(ctx)); }

int pp_ctx_term(void *ctx)
{
	int rc;
	do
		rc = zmq_ctx_term(ctx);
	while (rc == -1 && zmq_errno() == EINTR);
	return result(rc);
}
