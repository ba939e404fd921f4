package pickle_test

import (
	"fmt"
	"os"

	"github.com/proxyplane/proxyplane/serialize/pickle"
)

// A hostile pickle says what it would have done.
func ExampleDecode() {
	v, err := pickle.Decode([]byte("cos\nsystem\n(S'echo hello'\ntR."))
	if err != nil {
		fmt.Println(err)
		return
	}
	pickle.Dump(os.Stdout, v)
	// Output:
	// call os.system #1
	//   arg 0: "echo hello"
}

// A dataclass instance goes into a struct by the names of its fields.
func ExampleConvert() {
	task := &pickle.Object{
		Callable: pickle.Global{Module: "jobs", Name: "Task"}, New: true, HasState: true, State: pickle.NewDict(),
	}
	task.State.(*pickle.Dict).Set("task_id", "t-1")
	task.State.(*pickle.Dict).Set("retries", 3)
	data, err := pickle.Marshal(task) // what Python's pickle.dumps(Task("t-1", 3)) writes
	if err != nil {
		fmt.Println(err)
		return
	}

	v, err := pickle.Decode(data)
	if err != nil {
		fmt.Println(err)
		return
	}
	var into struct {
		TaskID  string
		Retries int
	}
	if err := pickle.Convert(v, &into); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%+v\n", into)
	// Output: {TaskID:t-1 Retries:3}
}

// Large values are borrowed, not copied.
func ExampleEncoder_Encode() {
	e := pickle.Encoder{Protocol: 5}
	parts, err := e.Encode(map[string]any{"name": "x", "payload": make([]byte, 1<<20)})
	fmt.Println(len(parts), len(parts[1]), err)
	// Output: 3 1048576 <nil>
}
