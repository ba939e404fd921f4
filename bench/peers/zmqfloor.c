/* libzmq beside us: what the C library takes for a request and its answer, with messages that are not copied where it can avoid that.
 *
 *   zmqfloor server           prints the endpoint it took, serves until standard input ends
 *   zmqfloor client ENDPOINT  reads orders, one per line: get|put SIZE FLIGHT NANOSECONDS; answers with one line:
 *                             the operations done, the nanoseconds they took together, and what each took
 *
 * A request is one frame with a letter and the size, and for a put a second frame with the object. DEALER and ROUTER, so that many requests may be
 * under way on one connection. Orders are followed for at least FLIGHT operations and at least NANOSECONDS.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

struct request {
	char op;
	char pad[7];
	uint64_t size;
};

static void check(int ok, const char *what) {
	if (!ok) {
		fprintf(stderr, "zmqfloor: %s: %s\n", what, zmq_strerror(zmq_errno()));
		exit(1);
	}
}

static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void keep(void *data, void *hint) { (void)data, (void)hint; }

/* object returns memory of at least that size, which lives as long as the process: messages of earlier sizes may still refer to it. */
static void *object(uint64_t size) {
	static char *mem;
	static uint64_t have;
	if (have < size) {
		mem = malloc(size);
		check(mem != NULL, "malloc");
		memset(mem, 5, have = size);
	}
	return mem;
}

static void send_object(void *s, uint64_t size) {
	zmq_msg_t m;
	check(zmq_msg_init_data(&m, object(size), size, keep, NULL) == 0, "message");
	check(zmq_msg_send(&m, s, 0) >= 0, "send");
}

static void unlimited(void *s) {
	int n = 0;
	zmq_setsockopt(s, ZMQ_SNDHWM, &n, sizeof n);
	zmq_setsockopt(s, ZMQ_RCVHWM, &n, sizeof n);
	zmq_setsockopt(s, ZMQ_LINGER, &n, sizeof n);
}

static int server(void *ctx) {
	void *s = zmq_socket(ctx, ZMQ_ROUTER);
	char at[256];
	size_t len = sizeof at;
	unlimited(s);
	check(zmq_bind(s, "tcp://127.0.0.1:*") == 0, "bind");
	check(zmq_getsockopt(s, ZMQ_LAST_ENDPOINT, at, &len) == 0, "endpoint");
	printf("%s\n", at);
	fflush(stdout);
	for (;;) {
		zmq_pollitem_t wait[] = {{s, 0, ZMQ_POLLIN, 0}, {NULL, 0, ZMQ_POLLIN, 0}};
		zmq_poll(wait, 2, -1);
		if (wait[1].revents)
			return 0; /* the end of standard input */
		for (;;) {
			zmq_msg_t id, body;
			struct request r;
			zmq_msg_init(&id);
			if (zmq_msg_recv(&id, s, ZMQ_DONTWAIT) < 0)
				break;
			check(zmq_recv(s, &r, sizeof r, 0) == sizeof r, "request");
			if (r.op == 'p') {
				zmq_msg_init(&body);
				check(zmq_msg_recv(&body, s, 0) >= 0, "object");
				zmq_msg_close(&body);
			}
			check(zmq_msg_send(&id, s, ZMQ_SNDMORE) >= 0, "send");
			if (r.op == 'p')
				check(zmq_send(s, "k", 1, 0) == 1, "send");
			else
				send_object(s, r.size);
		}
	}
}

static int client(void *ctx, const char *at) {
	enum { most = 100000 };
	static int64_t took[most], begun[1024];
	void *s = zmq_socket(ctx, ZMQ_DEALER);
	char op[8];
	unsigned long long size;
	long flight;
	long long until;
	unlimited(s);
	check(zmq_connect(s, at) == 0, "connect");
	while (scanf("%7s %llu %ld %lld", op, &size, &flight, &until) == 4) {
		int64_t start = now(), end = start;
		long asked = 0, done = 0;
		if (flight < 1 || flight > 1024)
			return 1;
		for (;;) {
			zmq_msg_t m;
			while (asked - done < flight && (asked < flight || now() - start < until)) {
				struct request r = {op[0], {0}, size};
				begun[asked++ % 1024] = now();
				check(zmq_send(s, &r, sizeof r, op[0] == 'p' ? ZMQ_SNDMORE : 0) >= 0, "send");
				if (op[0] == 'p')
					send_object(s, size);
			}
			if (asked == done)
				break;
			zmq_msg_init(&m);
			check(zmq_msg_recv(&m, s, 0) == (op[0] == 'p' ? 1 : (int)size), "answer");
			zmq_msg_close(&m);
			end = now();
			took[done % most] = end - begun[done % 1024];
			done++;
		}
		printf("%ld %lld", done, (long long)(end - start));
		for (long i = 0; i < done && i < most; i++)
			printf(" %lld", (long long)took[i]);
		printf("\n");
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv) {
	void *ctx = zmq_ctx_new();
	if (argc == 2 && !strcmp(argv[1], "server"))
		return server(ctx);
	if (argc == 3 && !strcmp(argv[1], "client"))
		return client(ctx, argv[2]);
	fprintf(stderr, "usage: zmqfloor server | zmqfloor client ENDPOINT\n");
	return 2;
}
