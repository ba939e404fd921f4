package pickle

import "unsafe"

// children calls yield with the values directly inside v, in order.
func children(v any, yield func(any)) {
	switch v := v.(type) {
	case Tuple:
		for _, c := range v {
			yield(c)
		}
	case *List:
		for _, c := range v.Items {
			yield(c)
		}
	case *Set:
		for _, c := range v.Items {
			yield(c)
		}
	case *Dict:
		for i := range v.pairs {
			yield(v.pairs[i].k)
			yield(v.pairs[i].v)
		}
	case *Object:
		yield(v.Callable)
		yield(v.Args)
		if v.Kwargs != nil {
			yield(v.Kwargs)
		}
		for _, c := range v.Items {
			yield(c)
		}
		if v.Pairs != nil {
			yield(v.Pairs)
		}
		if v.HasState {
			yield(v.State)
		}
	case PersistentID:
		yield(v.ID)
	}
}

// identity returns a comparable value that two references to one container share, or nil for what has no identity.
func identity(v any) any {
	switch v := v.(type) {
	case *List, *Dict, *Set, *Object:
		return v
	case Tuple:
		if len(v) > 0 {
			return unsafe.SliceData(v)
		}
	}
	return nil
}

// isContainer reports whether v adds a level of nesting.
func isContainer(v any) bool {
	switch v.(type) {
	case Tuple, *List, *Dict, *Set, *Object, PersistentID:
		return true
	}
	return false
}

// depthWithin reports whether containers nest at most limit deep in v. It does not recurse and takes linear time: the height
// of a shared container is computed once, and a reference that closes a cycle counts as a leaf. When shared is false, v is
// known to be a tree and needs no record of what was seen.
func depthWithin(v any, limit int, shared bool) bool {
	type frame struct {
		id     any
		kids   []any
		height int // of the kids done so far
	}
	var heights map[any]int // -1 while the container is open
	if shared {
		heights = make(map[any]int)
	}
	var stack []frame
	open := func(v any) (height int, opened bool) {
		if !isContainer(v) {
			return 0, false
		}
		var id any
		if shared {
			if id = identity(v); id != nil {
				if h, ok := heights[id]; ok {
					return max(h, 0), false
				}
				heights[id] = -1
			}
		}
		f := frame{id: id}
		children(v, func(c any) {
			if isContainer(c) {
				f.kids = append(f.kids, c)
			}
		})
		stack = append(stack, f)
		return 0, true
	}
	open(v)
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if len(stack) > limit {
			return false
		}
		if len(top.kids) > 0 {
			kid := top.kids[0]
			top.kids = top.kids[1:]
			if h, opened := open(kid); !opened {
				top.height = max(top.height, h)
			}
			continue
		}
		h := top.height + 1
		if len(stack)-1+h > limit {
			return false
		}
		if top.id != nil {
			heights[top.id] = h
		}
		stack = stack[:len(stack)-1]
		if len(stack) > 0 {
			up := &stack[len(stack)-1]
			up.height = max(up.height, h)
		}
	}
	return true
}
