package file

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"
)

// Close waits for calls in flight and closes the directory; with [Options].Clear it also removes objects ("# Close" in the package comment).
// Buffers and open Readers stay valid; open Writers can only be aborted. If ctx ends before the calls in flight do, Close returns its error,
// and what is left to do is done when they have ended.
func (c *Connector) Close(ctx context.Context) error { return c.CloseClear(ctx, c.opts.Clear) }

// CloseClear is Close with another answer to whether objects are removed.
func (c *Connector) CloseClear(ctx context.Context, clear bool) error {
	if !c.gate.Shut() {
		return nil
	}
	close(c.closing)
	select {
	case <-c.gate.Drained():
	default:
		select {
		case <-c.gate.Drained():
		case <-ctx.Done():
			go func() {
				<-c.gate.Drained()
				c.finish(clear)
			}()
			return ctx.Err()
		}
	}
	return c.finish(clear)
}

func (c *Connector) finish(clear bool) error {
	c.waits.close()
	var err error
	if clear {
		err = c.clear()
	}
	err = c.fail("close", nil, err)
	c.dir.release()
	return err
}

func (c *Connector) clear() error {
	if c.opts.ClearAll {
		return c.clearAll()
	}
	own := c.ownPrefix()
	var names []string // removing while listing may make a file system skip some
	err := c.dir.names(func(name string) error {
		if strings.HasPrefix(name, own) {
			names = append(names, strings.TrimSuffix(name, ready))
		}
		return nil
	})
	if c.dir.lost(err) || errors.Is(err, os.ErrNotExist) {
		return nil // somebody has cleared more than we would have
	}
	errs := []error{err}
	for _, name := range names {
		errs = append(errs, c.evict(name))
	}
	if c.madeDir {
		// It fails if the directory is not empty, which is as it should be: somebody else uses it.
		_ = os.Remove(c.opts.StoreDir)
	}
	return errors.Join(errs...)
}

// clearAll removes the directory's contents through an os.Root, which no symbolic link leads out of, and then the directory.
func (c *Connector) clearAll() error {
	r, err := os.OpenRoot(c.opts.StoreDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := r.Open(".")
	if err != nil {
		return err
	}
	var names []string
	errs := []error{eachName(f, func(name string) error { names = append(names, name); return nil })}
	for _, name := range names {
		errs = append(errs, r.RemoveAll(name))
	}
	if err := os.Remove(c.opts.StoreDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Sweep removes what killed writers left and nobody can see: temporary files, and objects with a UUID's name and without a marker, if they were
// last written more than age ago. Choose an age far beyond what any writer, Python's too, takes for one object or one batch. It lists the whole directory and
// returns how many files it removed.
func (c *Connector) Sweep(ctx context.Context, age time.Duration) (int, error) {
	if err := c.begin(ctx); err != nil {
		return 0, c.fail("sweep", nil, err)
	}
	defer c.gate.Leave()
	limit := time.Now().Add(-age).UnixNano()
	markers := map[string]bool{}
	var found []string
	err := c.dir.names(func(name string) error {
		if base, ok := strings.CutSuffix(name, ready); ok {
			markers[base] = true
		} else if looksLikeUUID(name) || strings.HasPrefix(name, tempPrefix) {
			found = append(found, name)
		}
		return ctx.Err()
	})
	removed := 0
	for _, name := range found {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			break
		}
		st, serr := c.dir.lstat(name)
		if serr != nil || !st.mode.IsRegular() || st.mtime > limit || markers[name] {
			continue
		}
		if _, serr := c.dir.lstat(name + ready); !errors.Is(serr, os.ErrNotExist) {
			continue // marked since the listing
		}
		if err = c.dir.remove(name); errors.Is(err, os.ErrNotExist) {
			err = nil
			continue
		}
		removed++
	}
	return removed, c.fail("sweep", nil, err)
}

// eachName calls f with every name in the directory d until f fails. It closes d.
func eachName(d *os.File, f func(name string) error) error {
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, n := range names {
			if err := f(n); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
