package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane/connectors"
	client "github.com/proxyplane/proxyplane/connectors/endpoint"
	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// endpointTryCmd is `proxyplane endpoint test`; a file of that name would be a test.
func (a *app) endpointTryCmd() *cobra.Command {
	var remote, size string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "test NAME [--remote UUID] [evict KEY | exists KEY | get KEY | put TEXT]",
		Short: "Try an endpoint, and through it a peer",
		Long: `Without an action: store random objects in the endpoint, or by --remote in a peer of it, get them back, compare, delete them, and print how long that took.
Exit code 0 if all of it worked.

With an action: do just that, as proxystore-endpoint test does. put stores a text as Python's str and prints its key; get prints such a text, or writes
whatever else the object is to standard output as it is.`,
		Example: `  proxyplane endpoint test site-a
  proxyplane endpoint test site-a --remote 3f2504e0-4f89-41d3-9a0c-0305e82c3301
  proxyplane endpoint test site-a put 'hello'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 3 {
				return errors.New("give NAME, or NAME ACTION ARGUMENT")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 3 {
				if err := checkOneOf("action", args[1], []string{"evict", "exists", "get", "put"}); err != nil {
					return err
				}
			}
			if remote != "" {
				id, err := config.ParseUUID(remote)
				if err != nil {
					return fail(exitUsage, "--remote: %w", err)
				}
				remote = id.String()
			}
			n, err := parseSize("--size", size)
			if err != nil {
				return err
			}
			if n > maxTrial {
				return fail(exitUsage, "--size %q: the objects of a trial are held in memory twice; use at most %d bytes", size, maxTrial)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			conn, _, err := endpointClient(ctx, args[0])
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			if remote == "" {
				remote, _ = conn.Endpoint()
			}
			if len(args) == 1 {
				return a.tryEndpoint(ctx, conn, remote, n)
			}
			return a.endpointAction(ctx, conn, remote, args[1], args[2])
		},
	}
	cmd.Flags().StringVar(&remote, "remote", "", "UUID of a peer to ask through the endpoint")
	cmd.Flags().StringVar(&size, "size", "10MB", "length of the largest object of the trial")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long all of it may take")
	return cmd
}

// maxTrial is the largest object of a trial.
const maxTrial = 4 << 30

func (a *app) endpointAction(ctx context.Context, conn *client.Connector, id, action, arg string) error {
	key := connectors.EndpointKey{ObjectID: arg, EndpointID: id}
	switch action {
	case "evict":
		if err := conn.Evict(ctx, key); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]string{"evicted": arg, "endpoint": id})
		}
		_, err := fmt.Fprintln(a.out, "Evicted object from endpoint.")
		return err
	case "exists":
		ok, err := conn.Exists(ctx, key)
		if err != nil {
			return err
		}
		if a.json {
			err = a.printJSON(map[string]bool{"exists": ok})
		} else {
			_, err = fmt.Fprintf(a.out, "Object exists: %v\n", ok)
		}
		if err == nil && !ok {
			return errNo
		}
		return err
	case "put":
		obj, err := serialize.Encode(arg)
		if err != nil {
			return err
		}
		key.ObjectID = uuid4.New()
		if err := conn.Set(ctx, key, obj); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]string{"key": key.ObjectID, "endpoint": id})
		}
		_, err = fmt.Fprintf(a.out, "Put object in endpoint with key %s\n", key.ObjectID)
		return err
	}
	r, err := connectors.GetStream(ctx, conn, key)
	if err != nil {
		return err
	}
	defer r.Close()
	head := make([]byte, 3)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return err
	}
	text := string(head[:n]) == "US\n" // proxystore.serialize's tag of a str
	if !text {
		if _, err := a.out.Write(head[:n]); err != nil {
			return err
		}
	}
	if _, err = r.WriteTo(a.out); err == nil && text {
		_, err = fmt.Fprintln(a.out)
	}
	return err
}

// tryEndpoint stores, gets and deletes objects of growing lengths.
func (a *app) tryEndpoint(ctx context.Context, conn *client.Connector, id string, largest int64) error {
	type result struct {
		Bytes int64   `json:"bytes"`
		Put   float64 `json:"put_seconds"`
		Get   float64 `json:"get_seconds"`
		Evict float64 `json:"evict_seconds"`
	}
	var results []result
	data := make([]byte, largest)
	rand.Read(data)
	local, at := conn.Endpoint()
	first := time.Now()
	if _, err := conn.Exists(ctx, connectors.EndpointKey{ObjectID: uuid4.New(), EndpointID: id}); err != nil {
		return err
	}
	if !a.json {
		what := ""
		if id != local {
			what = ", peer " + id
		}
		fmt.Fprintf(a.out, "endpoint %s at %s%s: first answer after %v\n", local, at, what, time.Since(first).Round(100*time.Microsecond))
	}
	for _, n := range []int64{1, 1000, 1_000_000, largest} {
		if n > largest || len(results) > 0 && results[len(results)-1].Bytes == n {
			continue
		}
		put, get, evict, err := tryObject(ctx, conn, connectors.EndpointKey{ObjectID: uuid4.New(), EndpointID: id}, data[:n])
		if err != nil {
			return err
		}
		results = append(results, result{n, put.Seconds(), get.Seconds(), evict.Seconds()})
		if !a.json {
			round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
			fmt.Fprintf(a.out, "%10d bytes: put %v (%s), get %v (%s), evict %v\n", n, round(put), speed(n, put), round(get), speed(n, get), round(evict))
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"endpoint": local, "peer": id, "results": results})
	}
	_, err := fmt.Fprintln(a.out, "it works")
	return err
}

// tryObject stores, gets and deletes one object, and says how long each took. Whatever goes wrong, it does not leave the object behind if it can.
func tryObject(ctx context.Context, conn *client.Connector, key connectors.EndpointKey, data []byte) (put, get, evict time.Duration, err error) {
	defer func() {
		if err != nil {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			_ = conn.Evict(late, key) // it has failed already, with a better reason
		}
	}()
	start := time.Now()
	if err := conn.Set(ctx, key, transport.Slices{data}); err != nil {
		return 0, 0, 0, err
	}
	put, start = time.Since(start), time.Now()
	b, err := conn.Get(ctx, key)
	if err != nil {
		return 0, 0, 0, err
	}
	get = time.Since(start)
	same := bytes.Equal(b.Bytes(), data)
	b.Release()
	if !same {
		return 0, 0, 0, fail(exitBadInput, "an object of %d bytes came back changed", len(data))
	}
	start = time.Now()
	if err := conn.Evict(ctx, key); err != nil {
		return 0, 0, 0, err
	}
	evict = time.Since(start)
	ok, err := conn.Exists(ctx, key)
	if err == nil && ok {
		err = fail(exitBadInput, "an object is still there after it was evicted")
	}
	return put, get, evict, err
}

// speed is how fast n bytes were moved, for people.
func speed(n int64, d time.Duration) string {
	bits := float64(n) * 8 / max(d.Seconds(), 1e-9)
	switch {
	case bits >= 1e9:
		return fmt.Sprintf("%.1f Gbit/s", bits/1e9)
	case bits >= 1e6:
		return fmt.Sprintf("%.0f Mbit/s", bits/1e6)
	}
	return fmt.Sprintf("%.0f kbit/s", bits/1e3)
}
