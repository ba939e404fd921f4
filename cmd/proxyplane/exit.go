package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
)

// The exit codes. Scripts rely on them, so none ever changes its meaning.
const (
	exitOK          = 0
	exitNo          = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitBadInput    = 5
	exitUnavailable = 6
	exitIO          = 7
	exitPipe        = 128 + 13
)

// exitCodes is the table for people; class is the word in --json errors.
var exitCodes = []struct {
	code        int
	class, text string
}{
	{exitOK, "ok", "it worked, or the answer is yes"},
	{exitNo, "no", "the answer is no: exists found no object"},
	{exitUsage, "usage", "a wrong command line, key, range or store configuration"},
	{exitNotFound, "not-found", "there is no such object: never stored, evicted, or not set in time"},
	{exitDenied, "denied", "the proxy wants something that the policy does not allow"},
	{exitBadInput, "bad-input", "a file, proxy or object is damaged or not what it should be"},
	{exitUnavailable, "unavailable", "a server or directory is out of reach, or this build lacks the connector"},
	{exitIO, "io", "anything else, mostly input and output: no such input file, disk full, no permission"},
	{128 + 2, "interrupted", "stopped by SIGINT (ctrl-C)"},
	{exitPipe, "pipe", "nobody reads standard output any more (SIGPIPE), as in: proxyplane ... | head"},
	{128 + 15, "terminated", "stopped by SIGTERM"},
}

// exitError is an error whose exit code its maker knows best.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// fail returns an error with an exit code. format may use %w.
func fail(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

// errNo is the answer no: exit code 1 without a message.
var errNo error = &exitError{exitNo, errors.New("no")}

// exitCode maps an error to the table.
func exitCode(err error) int {
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
	}
	var coded *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case is(connectors.ErrDenied):
		return exitDenied
	case is(proxyplane.ErrBadProxy, connectors.ErrCorrupt, serialize.ErrUnknownTag, serialize.ErrCorrupt, serialize.ErrTooLarge, serialize.ErrType,
		proxyplane.ErrNotProxiable, pickle.ErrCorrupt, pickle.ErrTooLarge, pickle.ErrTruncated, pickle.ErrType):
		return exitBadInput
	case is(connectors.ErrNotFound):
		return exitNotFound
	case is(connectors.ErrConfig, connectors.ErrInvalidKey, connectors.ErrInvalidRange, connectors.ErrNotForPython, connectors.ErrNoPolicy,
		errors.ErrUnsupported):
		return exitUsage
	case is(connectors.ErrUnavailable, context.DeadlineExceeded) || connectors.Retryable(err):
		return exitUnavailable
	}
	return exitIO
}

// report prints an error, as one JSON line under --json, and returns the exit code.
func (a *app) report(err error) int {
	if err == nil || errors.Is(err, errNo) {
		return exitCode(err)
	}
	code := exitCode(err)
	if goneReader(err) {
		return exitPipe // as the signal would have ended it, and as silently
	}
	if !a.started { // cobra found fault with the command line before any command ran
		code = exitUsage
		err = fmt.Errorf("%w (see %s --help)", err, a.named)
	}
	if !a.json {
		fmt.Fprintln(a.err, "proxyplane:", printable(err.Error()))
		return code
	}
	class := "io"
	for _, c := range exitCodes {
		if c.code == code {
			class = c.class
		}
	}
	line, _ := json.Marshal(map[string]any{"error": err.Error(), "class": class, "exit_code": code})
	fmt.Fprintf(a.err, "%s\n", line)
	return code
}

// goneReader reports whether a write to standard output failed because nobody reads it any more.
func goneReader(err error) bool {
	var pe *os.PathError
	return errors.As(err, &pe) && pe.Path == os.Stdout.Name() && errors.Is(pe.Err, syscall.EPIPE)
}

// printable keeps what others wrote (names in proxies and objects) from driving the terminal: control characters become spaces.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}

// exitCodesTopic is `proxyplane help exit-codes`.
func exitCodesTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString("Exit codes, which scripts can rely on:\n\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "  %3d  %-12s %s\n", c.code, c.class, c.text)
	}
	b.WriteString("\nWith --json an error is one line on standard error:\n\n" +
		`  {"class":"not-found","error":"...","exit_code":3}` + "\n")
	return &cobra.Command{Use: "exit-codes", Short: "What each exit code means", Long: b.String()}
}

// inputError says why a file of the user's cannot be read.
func inputError(path string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fail(exitIO, "%s: no such file", path)
	}
	return fail(exitIO, "%w", err)
}
