package redis_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/redis"
	"github.com/proxyplane/proxyplane/internal/redistest"
	"github.com/proxyplane/proxyplane/transport"
)

var benchSizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"100KiB", 100 << 10}, {"1MiB", 1 << 20}, {"100MiB", 100 << 20}}

// floor is the least that a Redis client can do: one connection, a header and writev to send, one read straight into memory that is there already.
type floor struct {
	b *testing.B
	c net.Conn
	r *bufio.Reader
}

func newFloor(b *testing.B, network, addr string) *floor {
	c, err := net.Dial(network, addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &floor{b, c, bufio.NewReaderSize(c, 16<<10)}
}

func (f *floor) line() []byte {
	line, err := f.r.ReadSlice('\n')
	if err != nil || line[0] == '-' {
		f.b.Fatalf("%q, %v", line, err)
	}
	return line
}

func (f *floor) set(key string, parts ...[]byte) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	bufs := append(net.Buffers{fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", len(key), key, n)}, parts...)
	bufs = append(bufs, []byte("\r\n"))
	if _, err := bufs.WriteTo(f.c); err != nil {
		f.b.Fatal(err)
	}
	f.line()
}

// read sends a command and reads the value that answers it.
func (f *floor) read(command []byte, into []byte) {
	if _, err := f.c.Write(command); err != nil {
		f.b.Fatal(err)
	}
	line := f.line()
	n, err := strconv.Atoi(string(line[1 : len(line)-2]))
	if err == nil {
		_, err = io.ReadFull(f.r, into[:n])
	}
	if err == nil {
		_, err = f.r.Discard(2)
	}
	if err != nil {
		f.b.Fatal(err)
	}
}

// BenchmarkRedis compares the connector with floor and with go-redis as it comes, which joins the parts to put and copies what it gets.
func BenchmarkRedis(b *testing.B) {
	s := redistest.Start(b)
	ctx := context.Background()
	for _, via := range []string{"tcp", "unix"} {
		opts, addr := redis.Options{Hostname: s.Host, Port: s.Port}, s.Addr()
		if via == "unix" {
			opts, addr = redis.Options{Socket: s.Socket}, s.Socket
		}
		c := open(b, opts)
		gr := goredis.NewClient(&goredis.Options{Network: via, Addr: addr, ContextTimeoutEnabled: true})
		b.Cleanup(func() { gr.Close() })
		f := newFloor(b, via, addr)
		for _, size := range benchSizes {
			body := bytes.Repeat([]byte("0123456789abcdef"), size.n/16)
			obj := transport.Slices{[]byte("BS\n"), body} // as a store puts it: a codec's tag and the caller's bytes
			n := int(obj.Len())
			key := connectors.RedisKey{RedisKey: "3f2504e0-4f89-41d3-9a0c-0305e82c3301"}
			warm := make([]byte, n)
			must := func(b *testing.B, err error) {
				if err != nil {
					b.Fatal(err)
				}
			}
			bench := func(op, who string, bytes int, f func(b *testing.B)) {
				b.Run(fmt.Sprintf("via=%s/op=%s/size=%s/by=%s", via, op, size.name, who), func(b *testing.B) {
					f(b) // once, so that neither pages nor connections are new
					b.SetBytes(int64(bytes))
					b.ReportAllocs()
					for b.Loop() {
						f(b)
					}
				})
			}
			get := fmt.Appendf(nil, "*2\r\n$3\r\nGET\r\n$36\r\n%s\r\n", key.RedisKey)
			bench("put", "floor", n, func(b *testing.B) { f.set(key.RedisKey, obj...) })
			bench("put", "proxyplane", n, func(b *testing.B) { must(b, c.Set(ctx, key, obj)) })
			bench("put", "goredis", n, func(b *testing.B) { must(b, gr.Set(ctx, key.RedisKey, obj.Join(), 0).Err()) })
			bench("get", "floor", n, func(b *testing.B) { f.read(get, warm) })
			bench("get", "floor-new-memory", n, func(b *testing.B) { f.read(get, make([]byte, n)) })
			bench("get", "proxyplane", n, func(b *testing.B) {
				buf, err := c.Get(ctx, key)
				must(b, err)
				buf.Release()
			})
			bench("get", "proxyplane-bytes", n, func(b *testing.B) {
				_, err := c.GetBytes(ctx, key)
				must(b, err)
			})
			bench("get", "goredis", n, func(b *testing.B) {
				_, err := gr.Get(ctx, key.RedisKey).Bytes()
				must(b, err)
			})
			bench("stream-get", "proxyplane", n, func(b *testing.B) {
				r, err := c.GetStream(ctx, key)
				must(b, err)
				_, err = r.WriteTo(io.Discard)
				must(b, err)
				must(b, r.Close())
			})
			for _, announced := range []int64{int64(size.n), -1} {
				who := "proxyplane"
				if announced < 0 {
					who = "proxyplane-unknown-size"
				}
				bench("stream-put", who, n, func(b *testing.B) {
					w, err := c.PutStream(ctx, announced)
					must(b, err)
					_, err = w.Write(body)
					must(b, err)
					k, err := w.Commit()
					must(b, err)
					must(b, c.Evict(ctx, k))
				})
			}
			half := n / 2
			getRange := fmt.Appendf(nil, "*4\r\n$8\r\nGETRANGE\r\n$36\r\n%s\r\n$1\r\n0\r\n$%d\r\n%d\r\n", key.RedisKey, len(strconv.Itoa(half-1)), half-1)
			bench("range", "floor", half, func(b *testing.B) { f.read(getRange, warm) })
			bench("range", "proxyplane", half, func(b *testing.B) {
				buf, err := c.GetRange(ctx, key, 0, int64(half))
				must(b, err)
				buf.Release()
			})
			if size.n > 1<<20 {
				continue
			}
			const batch = 32
			objs := make([]transport.Slices, batch)
			keys := make([]connectors.Key, batch)
			names := make([]string, batch)
			for i := range objs {
				objs[i], names[i] = obj, fmt.Sprintf("3f2504e0-4f89-41d3-9a0c-0305e82c33%02d", i)
				keys[i] = connectors.RedisKey{RedisKey: names[i]}
				must(b, c.Set(ctx, keys[i], obj))
			}
			bench("batch-put", "floor", batch*n, func(b *testing.B) {
				bufs := net.Buffers{fmt.Appendf(nil, "*%d\r\n$4\r\nMSET\r\n", 1+2*batch)}
				for i := range objs {
					bufs = append(bufs, fmt.Appendf(nil, "$36\r\n%s\r\n$%d\r\n", names[i], n), obj[0], obj[1], []byte("\r\n"))
				}
				_, err := bufs.WriteTo(f.c)
				must(b, err)
				f.line()
				del := fmt.Appendf(nil, "*%d\r\n$3\r\nDEL\r\n", 1+batch) // as below, where each put has new keys
				for _, name := range names {
					del = fmt.Appendf(del, "$36\r\n%s\r\n", name)
				}
				_, err = f.c.Write(del)
				must(b, err)
				f.line()
			})
			for i := range keys {
				must(b, c.Set(ctx, keys[i], obj))
			}
			bench("batch-put", "proxyplane", batch*n, func(b *testing.B) {
				keys, err := c.PutBatch(ctx, objs)
				must(b, err)
				must(b, c.EvictBatch(ctx, keys))
			})
			bench("batch-get", "floor", batch*n, func(b *testing.B) {
				command := fmt.Appendf(nil, "*%d\r\n$4\r\nMGET\r\n", 1+batch)
				for _, name := range names {
					command = fmt.Appendf(command, "$36\r\n%s\r\n", name)
				}
				_, err := f.c.Write(command)
				must(b, err)
				f.line()
				for range names {
					f.read(nil, warm)
				}
			})
			bench("batch-get", "proxyplane", batch*n, func(b *testing.B) {
				bufs, err := c.GetBatch(ctx, keys)
				must(b, err)
				for _, buf := range bufs {
					buf.Release()
				}
			})
			must(b, c.EvictBatch(ctx, keys))
		}
	}
}
