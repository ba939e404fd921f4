// The C side of package ucx. It fills libucp's parameter structs from flat arguments, so that no Go struct crosses, and holds the completion
// ring: libucp's callbacks append events to it and do nothing else, so C never calls Go. A worker and all that belongs to it are used by one
// thread at a time; the Go side says so.
#ifndef PROXYPLANE_UCX_SHIM_H
#define PROXYPLANE_UCX_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <ucp/api/ucp.h>

enum { PXU_OP = 1, PXU_AM, PXU_CONN, PXU_EP_ERROR };

enum {
	PXU_AM_INLINE = 0, // the bytes are in the ring's arena, valid until the next pxu_progress
	PXU_AM_EAGER = 1,  // the bytes are libucp's, until pxu_am_release
	PXU_AM_RNDV = 2,   // the bytes are still with the peer: pxu_am_recv fetches them
	PXU_AM_COPY = 3,   // the bytes are ours, until pxu_am_free
};

typedef struct {
	uint32_t kind;
	int32_t status;
	uint64_t token;  // what the operation, the listener or the endpoint was given
	uint64_t length; // bytes
	uint64_t tag;    // the tag of a received message; the client id of a connection request
	void *ep;        // the endpoint that an active message came from
	void *ptr;       // the request, the active message's data or descriptor, or the connection request
	uint32_t header_off, header_len; // in the arena
	uint32_t data_off, how;          // in the arena; PXU_AM_...
} pxu_event;

typedef struct {
	ucp_worker_h worker;
	pxu_event *events;
	uint32_t n, cap, handed; // the first so many were handed out by the last pxu_progress
	char *arena;
	size_t used, size;
	int32_t failed;        // an event was lost for want of memory: the worker cannot be trusted any more
	uint32_t max_inline;   // active messages up to this length are copied into the arena
	uint64_t waiting;      // requests under way
	uint64_t held;         // active messages whose data is not released yet
} pxu_worker;

typedef struct {
	ucp_listener_h h;
	pxu_worker *w;
	uint64_t token;
} pxu_listener;

typedef struct {
	ucp_ep_h h;
	pxu_worker *w;
	uint64_t token;
} pxu_ep;

// What starting an operation gives: a status (UCS_OK done, UCS_INPROGRESS an event will come) and, when done, what was received.
typedef struct {
	int32_t status;
	void *request;
	uint64_t length, tag;
} pxu_result;

ucs_status_t pxu_open(const char *name, uint64_t features, size_t eps, const ucp_config_t *config, ucp_context_h *out);
ucs_status_t pxu_worker_create(ucp_context_h ctx, uint64_t client_id, uint32_t max_inline, pxu_worker **out);
void pxu_worker_destroy(pxu_worker *w);
// pxu_progress drops the events of the call before, then progresses until there is an event, or nothing happened "idle" times in a row. It returns
// the number of events, plus 1<<32 if anything progressed.
uint64_t pxu_progress(pxu_worker *w, uint32_t idle);
ucs_status_t pxu_am_handler(pxu_worker *w, unsigned id);
ucs_status_t pxu_worker_limits(pxu_worker *w, size_t *max_header, int *thread_mode);

ucs_status_t pxu_listen(pxu_worker *w, int family, const void *addr, uint32_t scope, uint16_t port, uint64_t token, pxu_listener **out);
void pxu_listener_destroy(pxu_listener *l);
ucs_status_t pxu_listener_reject(pxu_listener *l, void *conn);
ucs_status_t pxu_listener_addr(pxu_listener *l, int *family, void *addr, uint32_t *scope, uint16_t *port);
ucs_status_t pxu_conn_addr(void *conn, int *family, void *addr, uint32_t *scope, uint16_t *port);

ucs_status_t pxu_connect(pxu_worker *w, int family, const void *addr, uint32_t scope, uint16_t port, int send_id, uint64_t token, pxu_ep **out);
ucs_status_t pxu_accept(pxu_worker *w, void *conn, uint64_t token, pxu_ep **out);
ucs_status_t pxu_connect_worker(pxu_worker *w, const void *address, int watch, uint64_t token, pxu_ep **out);
void pxu_ep_free(pxu_ep *e); // after its close has ended
pxu_result pxu_ep_close(pxu_worker *w, pxu_ep *e, int force, uint64_t token);
pxu_result pxu_ep_flush(pxu_worker *w, pxu_ep *e, uint64_t token);
pxu_result pxu_worker_flush(pxu_worker *w, uint64_t token);

pxu_result pxu_am_send(pxu_worker *w, pxu_ep *e, unsigned id, const void *header, size_t header_len, const void *data, size_t n,
		       unsigned flags, uint64_t token);
pxu_result pxu_am_recv(pxu_worker *w, void *desc, void *dst, size_t n, uint64_t token);
void pxu_am_release(pxu_worker *w, void *desc);
void pxu_am_free(pxu_worker *w, void *data);
pxu_result pxu_tag_send(pxu_worker *w, pxu_ep *e, uint64_t tag, const void *data, size_t n, uint64_t token);
void *pxu_parts(size_t n);
void pxu_part(void *parts, size_t i, void *p, size_t n);
pxu_result pxu_tag_sendv(pxu_worker *w, pxu_ep *e, uint64_t tag, void *parts, size_t n, uint64_t token); // takes parts
pxu_result pxu_tag_recv(pxu_worker *w, uint64_t tag, uint64_t mask, void *dst, size_t n, uint64_t token);
int pxu_tag_probe(pxu_worker *w, uint64_t tag, uint64_t mask, uint64_t *length, uint64_t *sender);
pxu_result pxu_stream_send(pxu_worker *w, pxu_ep *e, const void *data, size_t n, uint64_t token);
pxu_result pxu_stream_recv(pxu_worker *w, pxu_ep *e, void *dst, size_t n, uint64_t token);
// pxu_stream_ready returns an endpoint whose stream has bytes that no receive waits for, once until it is received from, or NULL.
ucp_ep_h pxu_stream_ready(pxu_worker *w);
pxu_result pxu_put(pxu_worker *w, pxu_ep *e, const void *data, size_t n, uint64_t raddr, ucp_rkey_h rkey, uint64_t token);
pxu_result pxu_get(pxu_worker *w, pxu_ep *e, void *dst, size_t n, uint64_t raddr, ucp_rkey_h rkey, ucp_mem_h memh, uint64_t token);
void pxu_cancel(pxu_worker *w, void *request);

ucs_status_t pxu_mem_map(ucp_context_h ctx, void *addr, size_t n, ucp_mem_h *out, void **base);

// pxu_forget tells libucp's registration caches that the memory may get other pages: they only see calls of the C library.
void pxu_forget(void *addr, size_t n);

// pxu_guarded says whether the definition in guard.c is the one that libucs uses.
int pxu_guarded(void);

// What a printing function of libucp writes, as a string to free; NULL without memory.
char *pxu_config_text(const ucp_config_t *config);
char *pxu_context_text(ucp_context_h ctx);
char *pxu_worker_text(pxu_worker *w);
char *pxu_ep_text(pxu_ep *e);

#endif
