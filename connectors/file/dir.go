package file

import (
	"errors"
	"os"
)

// The types dir and handle are the seam to the operating system; dir_linux.go and dir_other.go have one implementation each.
//
//	dir: openDir, confirmed, create, open, lstat, mark, remove, rename, link, touch, anonymous, plain, sync, names, lost, reopen, retain, release
//	handle: write, readAt, stat, sync, close, file
//
// Every one of their calls asks dir.faults first, through which tests let the Nth call fail.

// faults is a test's hook: what it returns is what the call fails with. It is nil in production, and a nil check is all it costs.
type faults func(call string) error

func (f faults) at(call string) error {
	if f == nil {
		return nil
	}
	return f(call)
}

// temp is a file that is being written and that no reader can see.
type temp struct {
	d    *dir
	h    handle
	f    *os.File // if not nil, h as a File; it owns the descriptor
	name string   // empty if it has none
}

// newTemp starts a file. The caller ends it by publish or drop.
func (d *dir) newTemp() (temp, error) {
	h, err := d.anonymous()
	if d.lost(err) && d.reopen() == nil {
		h, err = d.anonymous()
	}
	if err == nil {
		return temp{d: d.retain(), h: h}, nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return temp{}, err
	}
	name := tempName()
	if h, err = d.create(name); err != nil {
		return temp{}, err
	}
	return temp{d: d.retain(), h: h, name: name}, nil
}

func (t *temp) close() error {
	if t.f != nil {
		if err := t.d.faults.at("close"); err != nil {
			t.f.Close()
			return err
		}
		return t.f.Close()
	}
	return t.h.close()
}

// touch makes the file's time now.
func (t *temp) touch() error { return t.d.touch(t.h, t.name) }

// drop ends the file and leaves nothing of it.
func (t *temp) drop() error {
	defer t.d.release()
	return also(t.close(), t.unlink())
}

func (t *temp) unlink() error {
	if t.name == "" {
		return nil
	}
	return t.d.remove(t.name)
}

// publish gives the file its name, in place of what has that name. On error nothing of the file is left.
func (t *temp) publish(name string) error {
	defer t.d.release()
	linked := false
	if t.name == "" {
		err := t.d.link(t.h, name)
		linked = err == nil
		if errors.Is(err, os.ErrExist) { // linkat does not replace, rename does
			t.name = tempName()
			if err = t.d.link(t.h, t.name); err != nil {
				t.name = ""
			}
		}
		if err != nil {
			return also(err, t.close())
		}
	}
	err := t.close()
	switch {
	case err != nil && linked:
		return also(err, t.d.remove(name))
	case linked:
		return nil
	case err == nil:
		err = t.d.rename(t.name, name)
	}
	if err != nil {
		return also(err, t.unlink())
	}
	return nil
}

// publishNew gives the file a name that nothing has yet. It is os.ErrExist if something has, and then the file is as it was; on another error
// nothing of it is left.
func (t *temp) publishNew(name string) error {
	if t.name == "" {
		err := t.d.link(t.h, name)
		if errors.Is(err, os.ErrExist) {
			return err
		}
		defer t.d.release()
		if closed := t.close(); err == nil && closed != nil {
			return also(closed, t.d.remove(name))
		}
		return err
	}
	// Not every system has a rename that does not replace: the name is taken first, and then replaced.
	h, err := t.d.create(name)
	if errors.Is(err, os.ErrExist) {
		return err
	}
	if err == nil {
		err = h.close()
	} else {
		return also(err, t.drop())
	}
	if err != nil {
		return also(also(err, t.d.remove(name)), t.drop())
	}
	if err := t.publish(name); err != nil {
		return also(err, t.d.remove(name))
	}
	return nil
}
