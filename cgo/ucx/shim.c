//go:build cgo && ucx

#define _GNU_SOURCE
#include "shim.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucm/api/ucm.h>

// ---- the ring

static pxu_event *push(pxu_worker *w, uint32_t kind, ucs_status_t status, uint64_t token) {
	if (w->n == w->cap) {
		uint32_t cap = w->cap ? 2 * w->cap : 64;
		pxu_event *grown = realloc(w->events, cap * sizeof *grown);
		if (grown == NULL) {
			w->failed = UCS_ERR_NO_MEMORY;
			return NULL;
		}
		w->events = grown;
		w->cap = cap;
	}
	pxu_event *e = &w->events[w->n++];
	memset(e, 0, sizeof *e);
	e->kind = kind;
	e->status = status;
	e->token = token;
	return e;
}

// keep copies n bytes into the arena and says where.
static int keep(pxu_worker *w, const void *p, size_t n, uint32_t *off) {
	if (w->size - w->used < n) {
		size_t size = w->size ? w->size : 64 << 10;
		while (size - w->used < n) {
			size *= 2;
		}
		char *grown = size > UINT32_MAX ? NULL : realloc(w->arena, size);
		if (grown == NULL) {
			w->failed = UCS_ERR_NO_MEMORY;
			return 0;
		}
		w->arena = grown;
		w->size = size;
	}
	if (n > 0) {
		memcpy(w->arena + w->used, p, n);
	}
	*off = (uint32_t)w->used;
	w->used += n;
	return 1;
}

// A request finds its worker by this table of the worker's own, made by libucp with each request: see pxu_open.
typedef struct {
	pxu_worker *w;
	uint64_t token;
	void *extra; // freed with the operation
} slot;

static void request_init(void *request) { memset(request, 0, sizeof(slot)); }

// An operation that completes inside the call that starts it may have its callback there, before its slot is filled; what the callback is told is
// nowhere else to be had.
static __thread struct {
	void *request;
	uint64_t length, tag;
} early;

// finish is what every callback of an operation comes to.
static void finish(void *request, ucs_status_t status, uint64_t length, uint64_t tag) {
	slot *s = request;
	if (s->w == NULL) {
		early.request = request;
		early.length = length;
		early.tag = tag;
		return;
	}
	s->w->waiting--;
	free(s->extra);
	s->extra = NULL;
	pxu_event *e = push(s->w, PXU_OP, status, s->token);
	if (e != NULL) {
		e->length = length;
		e->tag = tag;
		e->ptr = request;
	}
}

static void on_send(void *request, ucs_status_t status, void *u) { finish(request, status, 0, 0); }
static void on_length(void *request, ucs_status_t status, size_t length, void *u) { finish(request, status, length, 0); }
static void on_tag(void *request, ucs_status_t status, const ucp_tag_recv_info_t *info, void *u) {
	finish(request, status, status == UCS_OK ? info->length : 0, status == UCS_OK ? info->sender_tag : 0);
}

static pxu_result started(pxu_worker *w, ucs_status_ptr_t p, uint64_t token, uint64_t length, uint64_t tag) {
	pxu_result r = {.status = UCS_PTR_STATUS(p)};
	if (UCS_PTR_IS_PTR(p)) {
		r.status = ucp_request_check_status(p);
		if (r.status != UCS_INPROGRESS) {
			if (early.request == p) {
				length = early.length;
				tag = early.tag;
			}
			early.request = NULL;
			ucp_request_free(p);
		} else {
			slot *s = p;
			s->w = w;
			s->token = token;
			r.request = p;
			w->waiting++;
			return r;
		}
	}
	if (r.status == UCS_OK) {
		r.length = length;
		r.tag = tag;
	}
	return r;
}

// recycle drops the events that were handed out. Others may have come since, by calls like ucp_request_cancel.
static void recycle(pxu_worker *w, uint32_t handed) {
	for (uint32_t i = 0; i < handed; i++) {
		if (w->events[i].kind == PXU_OP) {
			memset(w->events[i].ptr, 0, sizeof(slot));
			ucp_request_free(w->events[i].ptr);
		}
	}
	w->n -= handed;
	w->handed = 0;
	if (w->n > 0) {
		memmove(w->events, w->events + handed, w->n * sizeof *w->events);
		return;
	}
	w->used = 0;
	if (w->size > 1 << 20) { // one burst does not keep its memory
		free(w->arena);
		w->arena = NULL;
		w->size = 0;
	}
}

uint64_t pxu_progress(pxu_worker *w, uint32_t idle) {
	uint64_t any = 0;
	recycle(w, w->handed);
	for (;;) {
		if (ucp_worker_progress(w->worker) != 0) {
			any = 1ull << 32;
			if (w->n != 0) {
				break;
			}
			continue;
		}
		if (w->n != 0 || idle-- == 0) {
			break;
		}
	}
	w->handed = w->n;
	return any | w->n;
}

// ---- context and worker

// Without it a server cannot come back to its port for a minute. It is a setting that only the environment has (as of 1.13), so it is made before
// there are threads, unless the user made it. Go's own view of the environment, and so that of child processes, does not see it.
__attribute__((constructor)) static void reuse_addresses(void) { setenv("UCX_TCP_CM_REUSEADDR", "y", 0); }

ucs_status_t pxu_open(const char *name, uint64_t features, size_t eps, const ucp_config_t *config, ucp_context_h *out) {
	ucp_params_t p = {
		.mt_workers_shared = 1, // workers of one context run in different threads
		.field_mask = UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME | UCP_PARAM_FIELD_REQUEST_SIZE | UCP_PARAM_FIELD_REQUEST_INIT,
		.features = features,
		.name = name,
		.request_size = sizeof(slot),
		.request_init = request_init,
	};
	if (eps > 0) {
		p.field_mask |= UCP_PARAM_FIELD_ESTIMATED_NUM_EPS;
		p.estimated_num_eps = eps;
	}
	return ucp_init(&p, config, out);
}

ucs_status_t pxu_worker_create(ucp_context_h ctx, uint64_t client_id, uint32_t max_inline, pxu_worker **out) {
	pxu_worker *w = calloc(1, sizeof *w);
	if (w == NULL) {
		return UCS_ERR_NO_MEMORY;
	}
	w->max_inline = max_inline;
	ucp_worker_params_t p = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE, .thread_mode = UCS_THREAD_MODE_SERIALIZED};
	if (client_id != 0) {
		p.field_mask |= UCP_WORKER_PARAM_FIELD_CLIENT_ID;
		p.client_id = client_id;
	}
	ucs_status_t st = ucp_worker_create(ctx, &p, &w->worker);
	if (st != UCS_OK) {
		free(w);
		return st;
	}
	*out = w;
	return UCS_OK;
}

void pxu_worker_destroy(pxu_worker *w) {
	recycle(w, w->n);
	ucp_worker_destroy(w->worker); // also the requests that it completes now
	free(w->events);
	free(w->arena);
	free(w);
}

ucs_status_t pxu_worker_limits(pxu_worker *w, size_t *max_header, int *thread_mode) {
	ucp_worker_attr_t a = {.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER | UCP_WORKER_ATTR_FIELD_THREAD_MODE};
	ucs_status_t st = ucp_worker_query(w->worker, &a);
	*max_header = a.max_am_header;
	*thread_mode = a.thread_mode;
	return st;
}

// ---- addresses

static socklen_t sockaddr_of(struct sockaddr_storage *ss, int family, const void *addr, uint32_t scope, uint16_t port) {
	memset(ss, 0, sizeof *ss);
	if (family == 6) {
		struct sockaddr_in6 *a = (struct sockaddr_in6 *)ss;
		a->sin6_family = AF_INET6;
		a->sin6_port = htons(port);
		a->sin6_scope_id = scope;
		memcpy(&a->sin6_addr, addr, 16);
		return sizeof *a;
	}
	struct sockaddr_in *a = (struct sockaddr_in *)ss;
	a->sin_family = AF_INET;
	a->sin_port = htons(port);
	memcpy(&a->sin_addr, addr, 4);
	return sizeof *a;
}

static void addr_of(const struct sockaddr_storage *ss, int *family, void *addr, uint32_t *scope, uint16_t *port) {
	*family = 0;
	*scope = 0;
	*port = 0;
	if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)ss;
		*family = 6;
		*scope = a->sin6_scope_id;
		*port = ntohs(a->sin6_port);
		memcpy(addr, &a->sin6_addr, 16);
	} else if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *a = (const struct sockaddr_in *)ss;
		*family = 4;
		*port = ntohs(a->sin_port);
		memcpy(addr, &a->sin_addr, 4);
	}
}

// ---- listener

static void on_conn(ucp_conn_request_h conn, void *arg) {
	pxu_listener *l = arg;
	pxu_event *e = push(l->w, PXU_CONN, UCS_OK, l->token);
	if (e == NULL) {
		return; // the worker has failed, and ends with all its requests
	}
	ucp_conn_request_attr_t a = {.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ID};
	if (ucp_conn_request_query(conn, &a) == UCS_OK) {
		e->tag = a.client_id;
	}
	e->ptr = conn;
}

ucs_status_t pxu_listen(pxu_worker *w, int family, const void *addr, uint32_t scope, uint16_t port, uint64_t token, pxu_listener **out) {
	struct sockaddr_storage ss;
	pxu_listener *l = calloc(1, sizeof *l);
	if (l == NULL) {
		return UCS_ERR_NO_MEMORY;
	}
	l->w = w;
	l->token = token;
	ucp_listener_params_t p = {
		.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
		.sockaddr = {.addr = (struct sockaddr *)&ss, .addrlen = sockaddr_of(&ss, family, addr, scope, port)},
		.conn_handler = {.cb = on_conn, .arg = l},
	};
	ucs_status_t st = ucp_listener_create(w->worker, &p, &l->h);
	if (st != UCS_OK) {
		free(l);
		return st;
	}
	*out = l;
	return UCS_OK;
}

void pxu_listener_destroy(pxu_listener *l) {
	ucp_listener_destroy(l->h);
	free(l);
}

ucs_status_t pxu_listener_reject(pxu_listener *l, void *conn) { return ucp_listener_reject(l->h, conn); }

ucs_status_t pxu_listener_addr(pxu_listener *l, int *family, void *addr, uint32_t *scope, uint16_t *port) {
	ucp_listener_attr_t a = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
	ucs_status_t st = ucp_listener_query(l->h, &a);
	if (st == UCS_OK) {
		addr_of(&a.sockaddr, family, addr, scope, port);
	}
	return st;
}

ucs_status_t pxu_conn_addr(void *conn, int *family, void *addr, uint32_t *scope, uint16_t *port) {
	ucp_conn_request_attr_t a = {.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR};
	ucs_status_t st = ucp_conn_request_query(conn, &a);
	if (st == UCS_OK) {
		addr_of(&a.client_address, family, addr, scope, port);
	}
	return st;
}

// ---- endpoints

static void on_ep_error(void *arg, ucp_ep_h ep, ucs_status_t status) {
	pxu_ep *e = arg;
	(void)ep;
	push(e->w, PXU_EP_ERROR, status, e->token);
}

static ucs_status_t ep_create(pxu_worker *w, ucp_ep_params_t *p, int watch, uint64_t token, pxu_ep **out) {
	pxu_ep *e = calloc(1, sizeof *e);
	if (e == NULL) {
		return UCS_ERR_NO_MEMORY;
	}
	e->w = w;
	e->token = token;
	p->field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
	p->err_mode = watch ? UCP_ERR_HANDLING_MODE_PEER : UCP_ERR_HANDLING_MODE_NONE;
	p->err_handler.cb = on_ep_error;
	p->err_handler.arg = e;
	ucs_status_t st = ucp_ep_create(w->worker, p, &e->h);
	if (st != UCS_OK) {
		free(e);
		return st;
	}
	*out = e;
	return UCS_OK;
}

ucs_status_t pxu_connect(pxu_worker *w, int family, const void *addr, uint32_t scope, uint16_t port, int send_id, uint64_t token, pxu_ep **out) {
	struct sockaddr_storage ss;
	ucp_ep_params_t p = {
		.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR,
		.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER | (send_id ? UCP_EP_PARAMS_FLAGS_SEND_CLIENT_ID : 0),
		.sockaddr = {.addr = (struct sockaddr *)&ss, .addrlen = sockaddr_of(&ss, family, addr, scope, port)},
	};
	return ep_create(w, &p, 1, token, out);
}

ucs_status_t pxu_accept(pxu_worker *w, void *conn, uint64_t token, pxu_ep **out) {
	ucp_ep_params_t p = {
		.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_CONN_REQUEST,
		.flags = UCP_EP_PARAMS_FLAGS_NO_LOOPBACK,
		.conn_request = conn,
	};
	return ep_create(w, &p, 1, token, out);
}

ucs_status_t pxu_connect_worker(pxu_worker *w, const void *address, int watch, uint64_t token, pxu_ep **out) {
	ucp_ep_params_t p = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS, .address = address};
	return ep_create(w, &p, watch, token, out);
}

void pxu_ep_free(pxu_ep *e) { free(e); }

pxu_result pxu_ep_close(pxu_worker *w, pxu_ep *e, int force, uint64_t token) {
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_FLAGS,
		.flags = force ? UCP_EP_CLOSE_FLAG_FORCE : 0,
		.cb.send = on_send,
	};
	return started(w, ucp_ep_close_nbx(e->h, &p), token, 0, 0);
}

pxu_result pxu_ep_flush(pxu_worker *w, pxu_ep *e, uint64_t token) {
	ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK, .cb.send = on_send};
	return started(w, ucp_ep_flush_nbx(e->h, &p), token, 0, 0);
}

pxu_result pxu_worker_flush(pxu_worker *w, uint64_t token) {
	ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK, .cb.send = on_send};
	return started(w, ucp_worker_flush_nbx(w->worker, &p), token, 0, 0);
}

// ---- active messages

static ucs_status_t on_am(void *arg, const void *header, size_t header_len, void *data, size_t n, const ucp_am_recv_param_t *param) {
	pxu_worker *w = arg;
	pxu_event *e = push(w, PXU_AM, UCS_OK, 0);
	if (e == NULL) {
		return UCS_OK;
	}
	e->length = n;
	e->ep = param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP ? param->reply_ep : NULL;
	e->header_len = (uint32_t)header_len;
	if (!keep(w, header, header_len, &e->header_off)) {
		w->n--;
		return UCS_OK;
	}
	if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) {
		e->how = PXU_AM_RNDV;
	} else if (n <= w->max_inline) {
		e->how = PXU_AM_INLINE;
		if (!keep(w, data, n, &e->data_off)) {
			w->n--;
		}
		return UCS_OK;
	} else if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_DATA) {
		e->how = PXU_AM_EAGER;
	} else {
		e->how = PXU_AM_COPY;
		e->ptr = malloc(n);
		if (e->ptr == NULL) {
			w->failed = UCS_ERR_NO_MEMORY;
			w->n--;
			return UCS_OK;
		}
		memcpy(e->ptr, data, n);
		w->held++;
		return UCS_OK;
	}
	e->ptr = data;
	w->held++;
	return UCS_INPROGRESS; // the data, or its descriptor, stays until it is received or released
}

ucs_status_t pxu_am_handler(pxu_worker *w, unsigned id) {
	ucp_am_handler_param_t p = {
		.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG |
			      UCP_AM_HANDLER_PARAM_FIELD_FLAGS,
		.id = id,
		.flags = UCP_AM_FLAG_WHOLE_MSG,
		.cb = on_am,
		.arg = w,
	};
	return ucp_worker_set_am_recv_handler(w->worker, &p);
}

pxu_result pxu_am_send(pxu_worker *w, pxu_ep *e, unsigned id, const void *header, size_t header_len, const void *data, size_t n,
		       unsigned flags, uint64_t token) {
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
		.flags = flags,
		.memory_type = UCS_MEMORY_TYPE_HOST,
		.cb.send = on_send,
	};
	return started(w, ucp_am_send_nbx(e->h, id, header, header_len, data, n, &p), token, 0, 0);
}

pxu_result pxu_am_recv(pxu_worker *w, void *desc, void *dst, size_t n, uint64_t token) {
	size_t got = 0;
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_MEMORY_TYPE | UCP_OP_ATTR_FIELD_RECV_INFO,
		.memory_type = UCS_MEMORY_TYPE_HOST,
		.recv_info.length = &got,
		.cb.recv_am = on_length,
	};
	w->held--; // libucp owns the descriptor from here on, whatever comes of it
	ucs_status_ptr_t s = ucp_am_recv_data_nbx(w->worker, desc, dst, n, &p);
	return started(w, s, token, got, 0);
}

void pxu_am_release(pxu_worker *w, void *desc) {
	w->held--;
	ucp_am_data_release(w->worker, desc);
}

void pxu_am_free(pxu_worker *w, void *data) {
	w->held--;
	free(data);
}

// ---- tags, streams, remote memory

pxu_result pxu_tag_send(pxu_worker *w, pxu_ep *e, uint64_t tag, const void *data, size_t n, uint64_t token) {
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
		.memory_type = UCS_MEMORY_TYPE_HOST,
		.cb.send = on_send,
	};
	return started(w, ucp_tag_send_nbx(e->h, data, n, tag, &p), token, 0, 0);
}

pxu_result pxu_tag_sendv(pxu_worker *w, pxu_ep *e, uint64_t tag, void *parts, size_t n, uint64_t token) {
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_MEMORY_TYPE | UCP_OP_ATTR_FIELD_DATATYPE,
		.memory_type = UCS_MEMORY_TYPE_HOST,
		.datatype = UCP_DATATYPE_IOV,
		.cb.send = on_send,
	};
	pxu_result r = started(w, ucp_tag_send_nbx(e->h, parts, n, tag, &p), token, 0, 0);
	if (r.status == UCS_INPROGRESS) {
		((slot *)r.request)->extra = parts;
	} else {
		free(parts);
	}
	return r;
}

void *pxu_parts(size_t n) { return calloc(n, sizeof(ucp_dt_iov_t)); }

void pxu_part(void *parts, size_t i, void *p, size_t n) {
	((ucp_dt_iov_t *)parts)[i].buffer = p;
	((ucp_dt_iov_t *)parts)[i].length = n;
}

pxu_result pxu_tag_recv(pxu_worker *w, uint64_t tag, uint64_t mask, void *dst, size_t n, uint64_t token) {
	// What had already arrived ends at once, and 1.13 then fills recv_info not in all cases: so have a request, and ask it.
	ucp_tag_recv_info_t info = {0};
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_MEMORY_TYPE | UCP_OP_ATTR_FIELD_RECV_INFO | UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
		.memory_type = UCS_MEMORY_TYPE_HOST,
		.recv_info.tag_info = &info,
		.cb.recv = on_tag,
	};
	ucs_status_ptr_t s = ucp_tag_recv_nbx(w->worker, dst, n, tag, mask, &p);
	if (UCS_PTR_IS_PTR(s)) {
		ucp_tag_recv_request_test(s, &info);
	}
	return started(w, s, token, info.length, info.sender_tag);
}

int pxu_tag_probe(pxu_worker *w, uint64_t tag, uint64_t mask, uint64_t *length, uint64_t *sender) {
	ucp_tag_recv_info_t info;
	if (ucp_tag_probe_nb(w->worker, tag, mask, 0, &info) == NULL) {
		return 0;
	}
	*length = info.length;
	*sender = info.sender_tag;
	return 1;
}

pxu_result pxu_stream_send(pxu_worker *w, pxu_ep *e, const void *data, size_t n, uint64_t token) {
	ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK, .cb.send = on_send};
	return started(w, ucp_stream_send_nbx(e->h, data, n, &p), token, 0, 0);
}

pxu_result pxu_stream_recv(pxu_worker *w, pxu_ep *e, void *dst, size_t n, uint64_t token) {
	size_t got = 0;
	ucp_request_param_t p = {
		.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_FLAGS,
		.flags = UCP_STREAM_RECV_FLAG_WAITALL,
		.cb.recv_stream = on_length,
	};
	ucs_status_ptr_t s = ucp_stream_recv_nbx(e->h, dst, n, &got, &p);
	return started(w, s, token, got, 0);
}

ucp_ep_h pxu_stream_ready(pxu_worker *w) {
	ucp_stream_poll_ep_t ep;
	return ucp_stream_worker_poll(w->worker, &ep, 1, 0) == 1 ? ep.ep : NULL;
}

pxu_result pxu_put(pxu_worker *w, pxu_ep *e, const void *data, size_t n, uint64_t raddr, ucp_rkey_h rkey, uint64_t token) {
	ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK, .cb.send = on_send};
	return started(w, ucp_put_nbx(e->h, data, n, raddr, rkey, &p), token, n, 0);
}

pxu_result pxu_get(pxu_worker *w, pxu_ep *e, void *dst, size_t n, uint64_t raddr, ucp_rkey_h rkey, ucp_mem_h memh, uint64_t token) {
	ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK, .cb.send = on_send};
	if (memh != NULL) {
		p.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
		p.memh = memh;
	}
	return started(w, ucp_get_nbx(e->h, dst, n, raddr, rkey, &p), token, n, 0);
}

void pxu_cancel(pxu_worker *w, void *request) { ucp_request_cancel(w->worker, request); }

ucs_status_t pxu_mem_map(ucp_context_h ctx, void *addr, size_t n, ucp_mem_h *out, void **base) {
	ucp_mem_map_params_t p = {
		.field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_FLAGS,
		.address = addr,
		.length = n,
		.flags = addr == NULL ? UCP_MEM_MAP_ALLOCATE : 0,
	};
	ucs_status_t st = ucp_mem_map(ctx, &p, out);
	if (st != UCS_OK) {
		return st;
	}
	ucp_mem_attr_t a = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS};
	st = ucp_mem_query(*out, &a);
	if (st != UCS_OK) {
		ucp_mem_unmap(ctx, *out);
		return st;
	}
	*base = a.address;
	return UCS_OK;
}

void pxu_forget(void *addr, size_t n) { ucm_vm_munmap(addr, n); }

// ---- texts

#define TEXT(call)                            \
	char *text = NULL;                        \
	size_t size = 0;                          \
	FILE *f = open_memstream(&text, &size);   \
	if (f == NULL) {                          \
		return NULL;                          \
	}                                         \
	call;                                     \
	fclose(f);                                \
	return text

char *pxu_config_text(const ucp_config_t *config) { TEXT(ucp_config_print(config, f, NULL, UCS_CONFIG_PRINT_CONFIG)); }
char *pxu_context_text(ucp_context_h ctx) { TEXT(ucp_context_print_info(ctx, f)); }
char *pxu_worker_text(pxu_worker *w) { TEXT(ucp_worker_print_info(w->worker, f)); }
char *pxu_ep_text(pxu_ep *e) { TEXT(ucp_ep_print_info(e->h, f)); }
