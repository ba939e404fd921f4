package pickle

import (
	"bufio"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
)

const (
	dumpMaxDepth = 64
	dumpMaxLines = 20_000
	dumpMaxItems = 1000 // of one container
	dumpMaxText  = 256  // bytes of one string
)

// Dump writes a structural value for people to read, one value a line, inner ones indented. It is bounded whatever v is: long
// strings, containers and nestings are cut with a note, and a container that was shown before is named by its number (#1).
// Nothing in v can break out of its line.
func Dump(w io.Writer, v any) error {
	d := dumper{w: bufio.NewWriter(w), ids: make(map[any]int)}
	d.value("", v, 0)
	if d.lines > dumpMaxLines {
		fmt.Fprintf(d.w, "... cut after %d lines\n", dumpMaxLines)
	}
	if err := d.w.Flush(); err != nil {
		return fmt.Errorf("pickle: writing: %w", err)
	}
	return nil
}

type dumper struct {
	w     *bufio.Writer
	lines int
	ids   map[any]int
}

// line writes one line unless too many were written.
func (d *dumper) line(depth int, label, text string) {
	if d.lines++; d.lines > dumpMaxLines {
		return
	}
	for range depth {
		d.w.WriteString("  ")
	}
	d.w.WriteString(label)
	d.w.WriteString(text)
	d.w.WriteByte('\n')
}

func (d *dumper) value(label string, v any, depth int) {
	if d.lines > dumpMaxLines {
		return
	}
	tag := ""
	if id := identity(v); id != nil {
		if n, ok := d.ids[id]; ok {
			d.line(depth, label, fmt.Sprintf("%s, shown as #%d", describe(v), n))
			return
		}
		d.ids[id] = len(d.ids) + 1
		tag = fmt.Sprintf(" #%d", d.ids[id])
	}
	if !isContainer(v) || depth >= dumpMaxDepth {
		text := scalarText(v)
		if isContainer(v) {
			text = describe(v) + ", too deep to show"
		}
		d.line(depth, label, text)
		return
	}
	switch v := v.(type) {
	case Tuple:
		d.line(depth, label, fmt.Sprintf("tuple of %d%s", len(v), tag))
		d.items(v, depth+1)
	case *List:
		d.line(depth, label, fmt.Sprintf("list of %d%s", len(v.Items), tag))
		d.items(v.Items, depth+1)
	case *Set:
		kind := "set"
		if v.Frozen {
			kind = "frozenset"
		}
		d.line(depth, label, fmt.Sprintf("%s of %d%s", kind, len(v.Items), tag))
		d.items(v.Items, depth+1)
	case *Dict:
		d.line(depth, label, fmt.Sprintf("dict of %d%s", v.Len(), tag))
		d.pairs(v, depth+1)
	case PersistentID:
		d.line(depth, label, "persistent id")
		d.value("", v.ID, depth+1)
	case *Object:
		verb := "call"
		if v.New {
			verb = "new"
		}
		if g, ok := v.Class(); ok {
			d.line(depth, label, verb+" "+globalText(g)+tag)
		} else {
			d.line(depth, label, verb+tag)
			d.value("callable: ", v.Callable, depth+1)
		}
		for i, a := range v.Args {
			if d.cut(i, len(v.Args), depth+1) {
				break
			}
			d.value(fmt.Sprintf("arg %d: ", i), a, depth+1)
		}
		if v.Kwargs != nil {
			d.value("kwargs: ", v.Kwargs, depth+1)
		}
		if len(v.Items) > 0 {
			d.line(depth+1, "items: ", strconv.Itoa(len(v.Items)))
			d.items(v.Items, depth+2)
		}
		if v.Pairs != nil {
			d.value("pairs: ", v.Pairs, depth+1)
		}
		if v.HasState {
			d.value("state: ", v.State, depth+1)
		}
	}
}

// cut ends a long container with a note.
func (d *dumper) cut(i, n, depth int) bool {
	if i == dumpMaxItems {
		d.line(depth, "", fmt.Sprintf("... %d more", n-i))
	}
	return i >= dumpMaxItems || d.lines > dumpMaxLines
}

func (d *dumper) items(items []any, depth int) {
	for i, v := range items {
		if d.cut(i, len(items), depth) {
			return
		}
		d.value("", v, depth)
	}
}

func (d *dumper) pairs(v *Dict, depth int) {
	i := 0
	for k, x := range v.All() {
		if d.cut(i, v.Len(), depth) {
			return
		}
		i++
		if isContainer(k) {
			d.value("key: ", k, depth)
			d.value("value: ", x, depth)
			continue
		}
		d.value(scalarText(k)+": ", x, depth)
	}
}

func globalText(g Global) string {
	s := g.clipped(dumpMaxText)
	for _, r := range s {
		if r < ' ' || r > '~' {
			return strconv.QuoteToASCII(s)
		}
	}
	return s
}

// scalarText shows a value that holds no others.
func scalarText(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case *big.Int:
		if v.BitLen() > 8*dumpMaxText {
			return fmt.Sprintf("int of %d bits", v.BitLen())
		}
		return v.String()
	case string:
		return quoted(v)
	case []byte:
		return "b" + quotedBytes(v)
	case ByteArray:
		return "bytearray " + quotedBytes(v)
	case Global:
		return "global " + globalText(v)
	case OutOfBand:
		mode := ""
		if v.ReadOnly {
			mode = ", read-only"
		}
		return fmt.Sprintf("out-of-band buffer %d%s", v.Index, mode)
	case Extension:
		return fmt.Sprintf("extension %d", v.Code)
	}
	return fmt.Sprintf("%T", v)
}

func quoted(s string) string {
	if len(s) > dumpMaxText {
		return fmt.Sprintf("%s... (%d bytes)", strconv.Quote(s[:dumpMaxText]), len(s))
	}
	return strconv.Quote(s)
}

func quotedBytes(b []byte) string {
	var s strings.Builder
	s.WriteByte('"')
	for _, c := range b[:min(len(b), dumpMaxText)] {
		switch {
		case c == '"' || c == '\\':
			s.WriteByte('\\')
			s.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&s, "\\x%02x", c)
		default:
			s.WriteByte(c)
		}
	}
	s.WriteByte('"')
	if len(b) > dumpMaxText {
		fmt.Fprintf(&s, "... (%d bytes)", len(b))
	}
	return s.String()
}
