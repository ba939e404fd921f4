package webrtc

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// logs makes pion's loggers out of ours. Pion tells of single packets at trace level, which is left out, and warns of what is an everyday matter here
// (a server that does not resolve, a packet that came late), so that its warnings are for debugging, too.
type logs struct{ l *slog.Logger }

func (f logs) NewLogger(scope string) logging.LeveledLogger { return logger{f.l.With("pion", scope)} }

type logger struct{ l *slog.Logger }

func (g logger) log(level slog.Level, msg string) { g.l.Log(context.Background(), level, msg) }

func (g logger) logf(level slog.Level, format string, args []any) {
	if ctx := context.Background(); g.l.Enabled(ctx, level) {
		g.l.Log(ctx, level, fmt.Sprintf(format, args...))
	}
}

func (g logger) Trace(string)                 {}
func (g logger) Tracef(string, ...any)        {}
func (g logger) Debug(msg string)             { g.log(slog.LevelDebug, msg) }
func (g logger) Debugf(f string, args ...any) { g.logf(slog.LevelDebug, f, args) }
func (g logger) Info(msg string)              { g.log(slog.LevelDebug, msg) }
func (g logger) Infof(f string, args ...any)  { g.logf(slog.LevelDebug, f, args) }
func (g logger) Warn(msg string)              { g.log(slog.LevelDebug, msg) }
func (g logger) Warnf(f string, args ...any)  { g.logf(slog.LevelDebug, f, args) }
func (g logger) Error(msg string)             { g.log(slog.LevelInfo, msg) }
func (g logger) Errorf(f string, args ...any) { g.logf(slog.LevelInfo, f, args) }
