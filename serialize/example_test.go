package serialize_test

import (
	"fmt"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

func Example() {
	weights, _ := serialize.NewArray([]float64{1, 2, 3, 4, 5, 6}, 2, 3)
	obj, _ := serialize.Encode(weights) // what Python's deserialize turns into an ndarray

	buf := transport.FromBytes(obj.Join())
	a, err := serialize.DecodeAs[*serialize.Array](serialize.Default, buf)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Release()
	view, _ := serialize.View[float64](a) // no copy
	fmt.Println(a, view)
	// Output: ndarray(dtype <f8, shape [2 3]) [1 2 3 4 5 6]
}

func ExampleDecodeAs() {
	obj, _ := serialize.Encode(map[string]any{"name": "run 7", "losses": []float64{0.5, 0.25}})
	type result struct {
		Name   string
		Losses []float64
	}
	r, err := serialize.DecodeAs[result](serialize.Default, transport.FromBytes(obj.Join()))
	fmt.Println(r, err)
	// Output: {run 7 [0.5 0.25]} <nil>
}
