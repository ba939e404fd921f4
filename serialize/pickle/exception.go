package pickle

import (
	"fmt"
	"strings"
)

const (
	maxClass = 200  // bytes of an exception's class that are kept
	maxText  = 2000 // and of its text
)

// Exception describes a pickled exception for people: its class, with the module unless that is builtins, and its arguments. Both are cut to a sensible
// length. v can be anything, as whoever wrote the pickle chose it; what is no exception is said to be none in class.
func Exception(v any) (class, text string) {
	obj, ok := v.(*Object)
	if !ok {
		return fmt.Sprintf("something that is no exception (%T)", v), ""
	}
	class = "an unknown exception"
	if g, ok := obj.Class(); ok {
		if class = g.String(); g.Module == "builtins" {
			class = g.Name
		}
		class = cut(class, maxClass)
	}
	var b strings.Builder
	for i, a := range obj.Args {
		if i > 0 {
			b.WriteString(", ")
		}
		switch a := a.(type) {
		case string:
			b.WriteString(cut(a, maxText))
		case nil, bool, int64, float64:
			fmt.Fprint(&b, a)
		default:
			fmt.Fprintf(&b, "(%T)", a)
		}
		if b.Len() > maxText {
			break
		}
	}
	return class, cut(b.String(), maxText)
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return s
}
