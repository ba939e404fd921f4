package main

import (
	"time"

	"github.com/schollz/progressbar/v3"
)

// progressAfter is how long a transfer must have run before a bar appears.
const progressAfter = time.Second

// progress shows a bar on a terminal for what takes long. A nil progress shows nothing. It belongs to one goroutine.
type progress struct {
	a     *app
	total int64
	start time.Time
	bar   *progressbar.ProgressBar
}

// progress returns a bar for so many bytes, -1 if unknown; nil if standard error is no terminal.
func (a *app) progress(total int64) *progress {
	if !a.errTTY || a.json {
		return nil
	}
	return &progress{a: a, total: total, start: time.Now()}
}

func (p *progress) set(n int64) {
	if p == nil {
		return
	}
	if p.bar == nil {
		if time.Since(p.start) < progressAfter {
			return
		}
		p.bar = progressbar.NewOptions64(p.total, progressbar.OptionSetWriter(p.a.err), progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	if p.total < 0 {
		p.bar.Describe(formatBytes(n))
	}
	p.bar.Set64(n)
}

// finish removes the bar.
func (p *progress) finish() {
	if p != nil && p.bar != nil {
		p.bar.Clear()
	}
}
