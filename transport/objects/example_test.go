package objects_test

import (
	"errors"
	"fmt"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// An object arrives piece by piece, straight into the memory where it stays.
func ExampleTable() {
	table, err := objects.NewTable(objects.TableOptions{Memory: 1 << 20})
	if err != nil {
		panic(err)
	}
	defer table.Close()
	in, err := table.Create("greeting", 5, objects.PutOptions{})
	if err != nil {
		panic(err)
	}
	defer in.Abort() // nothing after Commit
	for from := "hello"; from != ""; {
		piece, err := in.Next(2) // up to 2 bytes
		if err != nil {
			panic(err)
		}
		from = from[copy(piece, from):]
	}
	if err := in.Commit(); err != nil {
		panic(err)
	}
	b, err := table.Get("greeting")
	if err != nil {
		panic(err)
	}
	defer b.Release()
	_, err = table.Create("large", 1<<20, objects.PutOptions{})
	fmt.Printf("%s %v\n", b.Bytes(), errors.Is(err, transport.ErrFull))
	// Output: hello true
}
