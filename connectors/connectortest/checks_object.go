package connectortest

import (
	"encoding/json"
	"runtime"
	"slices"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// sizes are those where something may go wrong: nothing, one byte, and around pages, frames and chunks.
var sizes = []int{0, 1, 2, 511, 512, 513, 4<<10 - 1, 4 << 10, 4<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1}

// large is the size of the one large object.
const large = 64 << 20

// upTo returns the sizes that the harness allows.
func (s *suite) upTo(sizes []int) []int {
	return slices.DeleteFunc(slices.Clone(sizes), func(n int) bool { return int64(n) > s.MaxSize })
}

func checkRoundTrip(s *suite) {
	a, b := s.open(), s.open()
	before := s.count()
	for _, n := range s.upTo(sizes) {
		data := payload(n, n)
		key := s.put(a, data)
		s.holds(a, key, data)
		s.holds(b, key, data)
		s.evict(b, key)
		s.lacks(a, key)
		s.lacks(b, key)
	}
	s.counted(before, "after all objects were evicted")
}

func checkLarge(s *suite) {
	n := int(min(large, s.MaxSize))
	c := s.open()
	data := payload(n, 1)
	key, err := c.Put(s.ctx, split(data, 3, n))
	if err != nil {
		s.Fatalf("Put of %d bytes: %v", n, err)
	}
	s.holds(c, key, data)
	off := n/2 + 1
	b, err := connectors.GetRange(s.ctx, c, key, int64(off), 100)
	if err != nil {
		s.Fatalf("GetRange in the middle: %v", err)
	}
	if d := differ(b.Bytes(), data[off:min(n, off+100)]); d != "" {
		s.Errorf("GetRange in the middle: %s", d)
	}
	b.Release()
	s.evict(c, key)
	s.lacks(c, key)
}

// checkParts puts objects in many parts. Vectored writes take 1,024 parts at most, and are allowed to stop anywhere.
func checkParts(s *suite) {
	c := s.open()
	few := payload(10_000, 1)
	many := payload(300_000, 2)
	for name, obj := range map[string]transport.Slices{
		"no parts":        nil,
		"one empty part":  {{}},
		"nil parts":       {nil, nil, nil},
		"tag and body":    {[]byte("BS\n"), few},
		"empty in front":  {nil, {}, few},
		"empty at end":    {few, nil, {}},
		"empty between":   {few[:1], nil, few[1:5000], {}, few[5000:]},
		"3,000 parts":     split(many, 100),
		"1,024 parts":     split(few[:1024], 1),
		"1,025 parts":     split(few[:1025], 1),
		"uneven parts":    split(many, 1, 0, 7, 0, 0, 4096, 513),
		"1,500 empty":     append(make(transport.Slices, 1500), few),
		"large and small": split(payload(int(min(3<<20, s.MaxSize)), 3), 1<<20, 1, 64<<10),
	} {
		want := obj.AppendTo(nil)
		outer := slices.Clone(obj)
		key, err := c.Put(s.ctx, obj)
		if err != nil {
			s.Errorf("Put, %s: %v", name, err)
			continue
		}
		for i := range outer {
			if len(outer[i]) != len(obj[i]) || len(outer[i]) > 0 && &outer[i][0] != &obj[i][0] {
				s.Errorf("Put, %s: the caller's Slices are changed at part %d: Put only borrows (net.Buffers.WriteTo eats its receiver)", name, i)
				break
			}
		}
		if d := differ(obj.AppendTo(nil), want); d != "" {
			s.Errorf("Put, %s: the caller's bytes are changed: %s", name, d)
		}
		s.holds(c, key, want)
		s.evict(c, key)
	}
}

func checkMissing(s *suite) {
	c := s.open()
	keys := []connectors.Key{s.missing(c)}
	if s.defers(c) {
		keys = append(keys, s.newKey(c))
	}
	for _, key := range keys {
		s.lacks(c, key)
		for _, op := range s.applicable(c) {
			switch op.name {
			case "Get", "GetRange", "GetBytes", "Map", "Stat", "GetStream":
				err := op.call(s.ctx, c, key, nil)
				if why := isErr(c, err, connectors.ErrNotFound); why != "" {
					s.Errorf("%s of a missing object: %s", op.name, why)
				}
			case "Exists", "Evict", "EvictBatch", "GetBatch":
				if err := op.call(s.ctx, c, key, nil); err != nil {
					s.Errorf("%s of a missing object: %v; that is no error", op.name, err)
				}
			}
		}
		s.lacks(c, key)
	}
}

func checkEvict(s *suite) {
	a, b := s.open(), s.open()
	before := s.count()
	keep := s.put(a, []byte("stays"))
	key := s.put(a, []byte("goes"))
	s.evict(a, key)
	s.evict(a, key)
	s.evict(b, key)
	s.lacks(a, key)
	s.lacks(b, key)
	s.holds(b, keep, []byte("stays"))
	s.evict(b, keep)
	s.counted(before, "after all objects were evicted")
}

func checkOutlivesClose(s *suite) {
	if !s.OutlivesClose {
		return
	}
	data := payload(100_000, 1)
	a := s.open()
	key := s.put(a, data)
	if err := a.Close(s.ctx); err != nil {
		s.Errorf("Close: %v", err)
	}
	b := s.open()
	s.holds(b, key, data)
	s.evict(b, key)
}

// checkBorrow overwrites everything that was only lent.
func checkBorrow(s *suite) {
	c := s.open()
	for _, n := range s.upTo([]int{1, 1000, 5000, 100_000, 2 << 20}) {
		data := payload(n, n)
		mine := slices.Clone(data)
		scribble := func() {
			for i := range mine {
				mine[i] ^= 0xff
			}
		}
		restore := func() { copy(mine, data) }

		key := s.put(c, mine)
		scribble()
		s.holds(c, key, data)
		s.evict(c, key)

		restore()
		obj := split(mine, n/2+1)
		key, err := c.Put(s.ctx, obj)
		if err != nil {
			s.Fatalf("Put: %v", err)
		}
		scribble()
		clear(obj)
		s.holds(c, key, data)
		s.evict(c, key)

		restore()
		objs := []transport.Slices{one(mine), one(mine)}
		keys, err := connectors.PutBatch(s.ctx, c, objs)
		if err != nil || len(keys) != 2 {
			s.Fatalf("PutBatch = %v, %v", keys, err)
		}
		scribble()
		clear(objs)
		for _, key := range keys {
			s.holds(c, key, data)
			s.evict(c, key)
		}

		restore()
		w, err := connectors.PutStream(s.ctx, c, int64(n))
		if err != nil {
			s.Fatalf("PutStream: %v", err)
		}
		if _, err := w.Write(mine); err != nil {
			s.Fatalf("Write: %v", err)
		}
		scribble() // a Write has lent its bytes until it returned, not until Commit
		key, err = w.Commit()
		if err != nil {
			s.Fatalf("Commit: %v", err)
		}
		s.holds(c, key, data)
		s.evict(c, key)

		if s.defers(c) {
			restore()
			key = s.newKey(c)
			s.set(c, key, mine)
			scribble()
			s.holds(c, key, data)
			s.evict(c, key)
		}
	}
}

// checkBuffers holds on to what Get gave, through everything that may happen to the object and the connector.
func checkBuffers(s *suite) {
	a, b := s.open(), s.open()
	for _, n := range s.upTo([]int{0, 1, 1000, 5000, 100_000, 3 << 20}) {
		data := payload(n, n)
		key := s.put(a, data)
		first, second, third := s.get(a, key), s.get(a, key), s.get(b, key)
		same := func(what string, b *transport.Buffer) {
			s.Helper()
			if d := differ(b.Bytes(), data); d != "" {
				s.Errorf("Buffer of %d bytes, %s: %s", n, what, d)
			}
		}
		same("second of two readers", second)
		first.Release()
		same("after the other reader released", second)
		if first.TryRetain() {
			s.Errorf("the Buffer of %d bytes is alive after its only Release: it was handed out with more than one reference", n)
		}
		view := second.Slice(n/3, n/2)
		second.Release()
		if d := differ(view.Bytes(), data[n/3:n/3+n/2]); d != "" {
			s.Errorf("view of a Buffer of %d bytes: %s", n, d)
		}
		view.Release()
		s.evict(b, key)
		same("after Evict", third)
		for i := range 4 { // other objects want memory
			other := s.put(a, payload(n, n+i+1))
			s.get(a, other).Release()
			s.evict(a, other)
		}
		same("after Evict and other objects", third)
		third.Release()

		if s.defers(a) {
			key := s.newKey(a)
			s.set(a, key, data)
			old := s.get(b, key)
			s.set(a, key, payload(n, n+100))
			same("after its key was set again", old)
			old.Release()
			s.evict(a, key)
		}
	}

	n := int(min(300_000, s.MaxSize))
	data := payload(n, 1)
	key := s.put(a, data)
	fromA, fromB := s.get(a, key), s.get(b, key)
	for _, c := range []connectors.Connector{a, b} {
		if err := c.Close(s.ctx); err != nil {
			s.Errorf("Close with a Buffer out: %v", err)
		}
	}
	runtime.GC()
	for _, b := range []*transport.Buffer{fromB, fromA} {
		if d := differ(b.Bytes(), data); d != "" {
			s.Errorf("Buffer after Close: %s", d)
		}
		b.Release()
	}
}

// checkBytes holds on to what GetBytes gave: it belongs to the garbage collector, for ever.
func checkBytes(s *suite) {
	c := s.open()
	type kept struct{ got, want []byte }
	var all []kept
	for _, n := range s.upTo([]int{0, 1, 1000, 5000, 100_000, 2 << 20}) {
		want := payload(n, n)
		key := s.put(c, want)
		got, err := connectors.GetBytes(s.ctx, c, key)
		if err != nil {
			s.Fatalf("GetBytes of %d bytes: %v", n, err)
		}
		all = append(all, kept{got, want})
		s.evict(c, key)
		other := s.put(c, payload(n, n+1)) // wants the same memory
		s.get(c, other).Release()
	}
	if err := c.Close(s.ctx); err != nil {
		s.Errorf("Close: %v", err)
	}
	runtime.GC()
	runtime.GC()
	for _, k := range all {
		if d := differ(k.got, k.want); d != "" {
			s.Errorf("GetBytes, after Evict and Close: %s", d)
		}
	}
}

func checkMap(s *suite) {
	c := s.open()
	for _, n := range s.upTo([]int{0, 1, 4096, 100_000, 1 << 20}) {
		data := payload(n, n)
		key := s.put(c, data)
		m, err := connectors.Map(s.ctx, c, key)
		if err != nil {
			s.Fatalf("Map of %d bytes: %v", n, err)
		}
		if d := differ(m.Bytes(), data); d != "" {
			s.Errorf("Map: %s", d)
		}
		s.evict(c, key)
		if d := differ(m.Bytes(), data); d != "" {
			s.Errorf("Map, after Evict: %s", d)
		}
		m.Release()
	}
}

func checkStat(s *suite) {
	a, b := s.open(), s.open()
	for _, n := range s.upTo([]int{0, 1, 4097, 1<<20 + 1}) {
		key := s.put(a, payload(n, n))
		for _, c := range []connectors.Connector{a, b} {
			if info, err := connectors.Stat(s.ctx, c, key); err != nil || info.Size != int64(n) {
				s.Errorf("Stat of an object of %d bytes = %+v, %v", n, info, err)
			}
		}
		s.evict(a, key)
	}
}

// checkKeys gives the connector keys that are not its own, and takes its keys through their other forms.
func checkKeys(s *suite) {
	c := s.open()
	foreign := s.ForeignKey
	if foreign == nil {
		foreign = connectors.FileKey{Filename: "00000000-0000-4000-8000-000000000000"}
		if kind(c) == "file" {
			foreign = connectors.LocalKey{ID: "00000000-0000-4000-8000-000000000000"}
		}
	}
	obj := one([]byte("never stored"))
	before := s.count()
	for _, key := range []connectors.Key{nil, foreign} {
		for _, op := range s.applicable(c) {
			if !op.keyed {
				continue
			}
			if why := isErr(c, op.call(s.ctx, c, key, obj), connectors.ErrInvalidKey); why != "" {
				s.Errorf("%s(%s), a key of no or another kind: %s", op.name, connectors.FormatKey(key), why)
			}
		}
	}
	s.counted(before, "after calls with bad keys")
	s.hostile(c, obj)

	seen := map[connectors.Key]bool{}
	ids := map[string]bool{}
	data := []byte("data")
	for range 100 {
		key := s.put(c, data)
		if seen[key] || ids[key.Identity()] {
			s.Fatalf("Put gave the key %s twice", connectors.FormatKey(key))
		}
		seen[key], ids[key.Identity()] = true, true
	}
	for key := range seen {
		s.evict(c, key)
	}

	key := s.put(c, data)
	known, ok := connectors.LookupKind(key.Kind())
	if !ok {
		return // a connector that ProxyStore does not have: its keys have no other forms
	}
	if key.Class() != known.KeyClass {
		s.Errorf("key of kind %s has class %s, want %s", key.Kind(), key.Class(), known.KeyClass)
	}
	again, err := connectors.NewKeyFromTuple(key.Class(), key.Tuple())
	if err != nil || again != key {
		s.Errorf("NewKeyFromTuple(%s, %v) = %v, %v", key.Class(), key.Tuple(), again, err)
	}
	text, err := connectors.MarshalKey(key)
	if err == nil && !json.Valid(text) {
		s.Errorf("MarshalKey gives %q", text)
	}
	if again, err = connectors.UnmarshalKey(text, ""); err != nil || again != key {
		s.Fatalf("UnmarshalKey(%s) = %v, %v; want %v", text, again, err, key)
	}
	s.holds(c, again, data)
}

// hostile gives the connector keys that lead outside its storage.
func (s *suite) hostile(c connectors.Connector, obj transport.Slices) {
	for _, key := range s.HostileKeys {
		for _, op := range s.applicable(c) {
			if !op.keyed || op.name == "Wait" {
				continue // to wait for what may never be there is allowed, and lasts
			}
			err := op.call(s.ctx, c, key, obj)
			switch {
			case isErr(c, err, connectors.ErrInvalidKey) == "", isErr(c, err, connectors.ErrNotFound) == "":
			case err == nil && op.name == "Set":
				// Then the key names an ordinary object after all, which goes again.
				s.holds(c, key, obj.AppendTo(nil))
				s.evict(c, key)
			case err == nil && (op.name == "Evict" || op.name == "EvictBatch"):
			case err == nil && op.name == "Exists":
				if ok, _ := c.Exists(s.ctx, key); ok {
					s.Errorf("Exists(%s), a hostile key: true", connectors.FormatKey(key))
				}
			case err == nil && op.name == "GetBatch":
				bufs, _ := connectors.GetBatch(s.ctx, c, []connectors.Key{key})
				if len(bufs) == 1 && bufs[0] != nil {
					s.Errorf("GetBatch(%s), a hostile key, gives %d bytes", connectors.FormatKey(key), bufs[0].Len())
					bufs[0].Release()
				}
			default:
				s.Errorf("%s(%s), a hostile key: %v; want ErrInvalidKey or ErrNotFound", op.name, connectors.FormatKey(key), err)
			}
		}
	}
}
