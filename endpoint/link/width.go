package link

import (
	"context"
	"errors"
	"time"
)

const (
	// maxLanes is how many lanes a direction may have.
	maxLanes = 16
	// widthPeriod is for how long bytes are counted to compare one number of lanes with another, at least; and at least widthTrips round trips.
	widthPeriod = 250 * time.Millisecond
	widthTrips  = 8
	// steady is by how much the rate of one period may exceed the one before if the lanes count as having found theirs.
	steady = 1.1
	// faster is by how much twice as many lanes must be faster, if they are to stay.
	faster = 1.15
	// widthRest is when more lanes may be tried again after they were not faster, and changed by how much the rate must differ from what it was then: a trial on
	// a wire that is full costs it some 100 ms.
	widthRest = 30 * time.Second
	changed   = 1.3
)

// A width is how many lanes of a direction are in use, and the search for the number that fills the wire.
//
// Each lane has a congestion window of its own, or its share of several (path.Path.Widen). Where packets get lost by chance, and where the wire is long, windows
// of the kinds that take every loss for a sign of congestion (Cubic: quic-go's only kind, and most systems' for TCP) fill a small part of it, and more of them
// fill more. Where the wire is full anyway more lanes are of no use, and take from others who share it. So it is tried: when lanes have been busy without a
// pause and no longer become faster by themselves, twice as many are used for a moment, and stay if that was faster by 15 %. All of it is under Link.mu.
type width struct {
	n        int       // lanes in use
	most     int       // that there may be
	from     int       // how many there were before the trial that is under way; 0: there is none
	base     float64   // bytes per second before it
	opening  bool      // the lanes for it are not there yet
	settling bool      // they have just come
	rest     time.Time // when the next may begin
	vain     float64   // the rate before one that was in vain; 0: there was none
	began    time.Time // of the period in which bytes are counted; zero: the lanes had room for everything
	bytes    int64     // that landed in it
	last     float64   // bytes per second in the one before; 0: unknown
}

// using returns the lanes of a group that are in use. Under mu.
func (w *wire) using(group int) []*lane {
	if group == small {
		return w.lanes[small]
	}
	return w.lanes[group][:w.widths[group].n]
}

// gauge counts n bytes that landed on a lane for bulk, and decides at the end of a period. Under mu.
func (w *wire) gauge(dir int, n int64) {
	l := w.l
	if dir == small {
		return
	}
	wd := &w.widths[dir]
	if wd.from == 0 && wd.n >= wd.most || w != l.wire {
		return
	}
	if len(l.rings[dir]) == 0 { // the lanes had room for everything
		wd.began, wd.last = time.Time{}, 0
		return
	}
	now := time.Now()
	if wd.began.IsZero() {
		wd.began, wd.bytes = now, 0
		return
	}
	wd.bytes += n
	took := now.Sub(wd.began)
	if took < max(widthPeriod, widthTrips*w.rtt) {
		return
	}
	rate := float64(wd.bytes) / took.Seconds()
	wd.began, wd.bytes = now, 0
	switch {
	case wd.opening:
	case wd.settling:
		wd.settling = false
	case wd.from > 0 && rate < faster*wd.base:
		wd.vain = wd.base
		wd.stay(now)
	case wd.from > 0:
		l.o.Logger.Debug("more lanes are faster", "direction", dir, "lanes", wd.n, "before", wd.from, "rate", int64(rate), "rate before", int64(wd.base))
		wd.from, wd.last = 0, rate
	case rate > steady*wd.last:
		wd.last = rate
	case now.After(wd.rest) && (wd.vain == 0 || rate < wd.vain/changed || rate > wd.vain*changed):
		wd.from, wd.base, wd.opening, wd.last = wd.n, rate, true, 0
		n := min(2*wd.n, wd.most)
		l.wg.Go(func() { w.widen(dir, n) })
	}
}

// stay ends a trial that was of no use. Under mu.
func (wd *width) stay(now time.Time) {
	wd.n, wd.from, wd.last, wd.rest = wd.from, 0, 0, now.Add(widthRest)
}

// widen begins to use n lanes, for a trial.
func (w *wire) widen(dir, n int) {
	l := w.l
	ctx, cancel := context.WithTimeout(w.ctx, openTimeout)
	defer cancel()
	err := w.p.Widen(ctx, n)
	l.mu.Lock()
	defer l.mu.Unlock()
	wd := &w.widths[dir]
	wd.opening = false
	if err != nil || w.dead {
		l.o.Logger.Debug("no more lanes", "direction", dir, "err", err)
		if errors.Is(err, errors.ErrUnsupported) {
			wd.most = wd.n
		}
		wd.stay(time.Now())
		return
	}
	for len(w.lanes[dir]) < n {
		w.lanes[dir] = append(w.lanes[dir], &lane{w: w, group: dir})
	}
	wd.n, wd.settling = n, true
	for _, ln := range w.using(dir) {
		ln.open()
	}
}
