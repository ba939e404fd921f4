// What Go calls: one call per part, errors as numbers, and the release of parts that were sent from the caller's memory.
#ifndef PROXYPLANE_ZMQ_SHIM_H
#define PROXYPLANE_ZMQ_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

#if ZMQ_VERSION < ZMQ_MAKE_VERSION(4, 3, 0)
#error "libzmq 4.3 or newer is needed; Debian and Ubuntu have it as libzmq3-dev"
#endif

// A queue collects the tickets that are done, for the goroutine that reads the other end of fd.
typedef struct pp_queue {
	struct pp_ticket *done;
	int fd;
} pp_queue;

// A ticket counts the parts of one message that libzmq still has, and one more while the message is being sent.
typedef struct pp_ticket {
	struct pp_queue *queue;
	struct pp_ticket *next;
	uintptr_t handle;
	int pending;
} pp_ticket;

// All but the first three return 0 or an error number.
pp_queue *pp_queue_new(int fd);
pp_ticket *pp_ticket_new(pp_queue *q, uintptr_t handle);
pp_ticket *pp_queue_take(pp_queue *q); // all that are done, newest first
void pp_ticket_begin(pp_ticket *t);
int pp_ticket_end(pp_ticket *t); // 1 if no part is left: then it is not put on the queue
int pp_ticket_held(pp_ticket *t); // the parts that are left, after pp_ticket_end
int pp_send_copy(void *sock, const char *p, size_t n, int more);
int pp_send_ref(void *sock, char *p, size_t n, int more, pp_ticket *t);
int pp_recv(void *sock, uint64_t *msg, uintptr_t *data, size_t *size, int *more, int *inside); // *data is an offset in msg if inside
void pp_msg_close(uint64_t *msg);
int pp_msg_get(uint64_t *msg, int property);
const char *pp_msg_gets(uint64_t *msg, const char *property);
int pp_set(void *sock, int option, const char *value, size_t n);
int pp_get(void *sock, int option, void *value, size_t *n);
int pp_events(void *sock);
int pp_bind(void *sock, const char *endpoint);
int pp_unbind(void *sock, const char *endpoint);
int pp_connect(void *sock, const char *endpoint);
int pp_monitor(void *sock, const char *endpoint, int events);
int pp_close(void *sock);
int pp_ctx_new(int io_threads, int max_sockets, void **ctx);
int pp_socket(void *ctx, int type, void **sock);
int pp_ctx_shutdown(void *ctx);
int pp_ctx_term(void *ctx);

#endif
