// Partial works on an object that is larger than anybody wants to fetch: a table of sorted records. It is written as a stream, searched by reading
// one record here and there, and added up as a stream, all in a few megabytes of memory.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sort"

	"github.com/proxyplane/proxyplane"
)

// A record is two numbers: an id, by which the table is sorted, and a value.
const recordSize = 16

func main() {
	n := flag.Int("records", 16<<20, "length of the table")
	flag.Parse()
	dir, err := os.MkdirTemp("", "proxyplane-example-")
	if err != nil {
		log.Fatal(err)
	}
	err = run(context.Background(), os.Stdout, dir, *n)
	os.RemoveAll(dir)
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer, dir string, n int) error {
	store, err := proxyplane.Open(ctx, proxyplane.NewConfig("", proxyplane.FileConnector(dir)))
	if err != nil {
		return err
	}
	defer store.Close(ctx)

	// Written as a stream.
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTable(w, n)) }()
	key, err := store.PutReader(ctx, r, int64(n)*recordSize)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	p, err := proxyplane.ProxyFromKey[[]byte](store, key) // what would travel to another process
	if err != nil {
		return err
	}

	// Searched by ranges.
	reads, wanted := 0, uint64(n/3*7)
	at := sort.Search(n, func(i int) bool {
		record, e := p.ReadRange(ctx, int64(i)*recordSize, recordSize)
		if e != nil {
			err = e
			return true
		}
		defer record.Release()
		reads++
		return binary.LittleEndian.Uint64(record.Bytes()) >= wanted
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "id %d is record %d of %d, found with %d reads of %d bytes\n", wanted, at, n, reads, recordSize)

	// Read as a stream.
	table, err := p.Open(ctx)
	if err != nil {
		return err
	}
	defer table.Close()
	sum, record, in := uint64(0), make([]byte, recordSize), bufio.NewReaderSize(table, 1<<20)
	for range n {
		if _, err := io.ReadFull(in, record); err != nil {
			return err
		}
		sum += binary.LittleEndian.Uint64(record[8:])
	}
	fmt.Fprintf(out, "the values of all %d bytes add up to %d\n", table.Size(), sum)
	return nil
}

func writeTable(w io.Writer, n int) error {
	b := bufio.NewWriterSize(w, 1<<20)
	record := make([]byte, recordSize)
	for i := range uint64(n) {
		binary.LittleEndian.PutUint64(record, 7*i)
		binary.LittleEndian.PutUint64(record[8:], i%10)
		b.Write(record) // an error stays until Flush
	}
	return b.Flush()
}
