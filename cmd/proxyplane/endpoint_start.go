package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	daemon "github.com/proxyplane/proxyplane/endpoint"
	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/endpoint/storage"
)

// readyVar names the file descriptor on which a daemon tells who started it that it serves, or why not.
const readyVar = "PROXYPLANE_READY_FD"

// startPatience is how long the daemon may take to say so.
const startPatience = 30 * time.Second

func (a *app) endpointStartCmd() *cobra.Command {
	var detach, noDetach bool
	cmd := &cobra.Command{
		Use: "start NAME", Short: "Start an endpoint",
		Long: `Start an endpoint, by default as a daemon: the command returns when the endpoint serves. Its log is log.txt in its directory. With --no-detach it runs until
SIGINT or SIGTERM, and logs to standard error too.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if detach && !noDetach {
				return a.startDaemon(cmd.Context(), args[0])
			}
			return a.runEndpoint(cmd.Context(), args[0])
		},
	}
	cmd.Flags().BoolVar(&detach, "detach", true, "run as a daemon")
	cmd.Flags().BoolVar(&noDetach, "no-detach", false, "run in the foreground")
	return cmd
}

// runEndpoint serves until ctx ends.
func (a *app) runEndpoint(ctx context.Context, name string) (err error) {
	parent := readyPipe()
	if parent != nil {
		defer parent.Close()
		defer func() {
			if err != nil {
				fmt.Fprintf(parent, "error %d %s\n", exitCode(err), strings.ReplaceAll(err.Error(), "\n", "; "))
			}
		}()
	}
	dir, c, err := config.Prepare(ctx, config.Home(), name)
	if err != nil {
		return endpointError(err)
	}
	a.extendGrace(config.DefaultGrace)
	o := daemon.RunOptions{Ready: func(at []string) {
		switch {
		case parent != nil:
			fmt.Fprintf(parent, "ready %s\n", strings.Join(at, " "))
			parent.Close()
		case a.json:
			a.printJSON(map[string]any{"ready": true, "uuid": c.UUID, "addresses": at})
		default:
			fmt.Fprintf(a.out, "ready %s\n", strings.Join(at, " "))
		}
	}}
	if parent == nil {
		o.LogTo = a.err
	}
	err = daemon.Run(ctx, dir, c, o)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fail(exitUnavailable, "%w", err) // as the other servers of this program say it
	case errors.Is(err, config.ErrRunning):
		return endpointError(err)
	}
	return err
}

// readyPipe returns the pipe to the command that started this daemon, nil if none did.
func readyPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(readyVar))
	if err != nil || fd < 3 {
		return nil
	}
	os.Unsetenv(readyVar)
	return os.NewFile(uintptr(fd), "ready")
}

// startDaemon starts this program once more, detached, and waits until it serves.
func (a *app) startDaemon(ctx context.Context, name string) error {
	home := config.Home()
	dir := filepath.Join(home, name)
	if s := config.GetStatus(home, name); s == config.Running || s == config.Unknown || !config.ValidName(name) {
		// Prepare knows what is wrong, and changes nothing then.
		_, _, err := config.Prepare(ctx, home, name)
		return endpointError(err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, config.LogFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(self, "endpoint", "start", "--no-detach", name)
	cmd.Env = append(os.Environ(), readyVar+"=3", "PROXYSTORE_HOME="+home)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w} // what a panic prints
	if err := detached(cmd); err != nil {
		w.Close()
		return err
	}
	if err := cmd.Start(); err != nil {
		w.Close()
		return err
	}
	w.Close()
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(io.LimitReader(r, 64<<10)).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	timer := time.NewTimer(startPatience)
	defer timer.Stop()
	var line string
	select {
	case line = <-answer:
	case <-timer.C:
		return errors.Join(fail(exitUnavailable, "endpoint %s does not serve after %v; see %s, or start it with --no-detach, which waits as long as it takes", name, startPatience, log.Name()), cmd.Process.Kill(), cmd.Wait())
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), cmd.Process.Kill(), cmd.Wait())
	}
	if at, ok := strings.CutPrefix(line, "ready "); ok {
		a.awaitRelay(ctx, name)
		if a.json {
			return a.printJSON(map[string]any{"ready": true, "pid": cmd.Process.Pid, "addresses": strings.Fields(at), "log": log.Name()})
		}
		_, err := fmt.Fprintf(a.out, "Endpoint %s serves at %s (process %d).\nLogs are written to %s\n", name, at, cmd.Process.Pid, log.Name())
		return errors.Join(err, cmd.Process.Release())
	}
	werr := cmd.Wait()
	if rest, ok := strings.CutPrefix(line, "error "); ok {
		code, text, _ := strings.Cut(rest, " ")
		if n, err := strconv.Atoi(code); err == nil {
			return fail(n, "%s", text)
		}
	}
	return fail(exitUnavailable, "endpoint %s ended before it served (%v); see %s", name, werr, log.Name())
}

// relayPatience is how long start waits for an endpoint to be registered at its relay. It serves before that, but peers that ask it are refused, which scripts
// that start one endpoint after the other would run into.
const relayPatience = time.Second

// awaitRelay waits until the endpoint is registered, and warns if that takes longer or was refused.
func (a *app) awaitRelay(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, relayPatience)
	defer cancel()
	conn, c, err := endpointClient(ctx, name)
	if err != nil || c.Relay.Address == "" {
		return // status will tell
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var s daemon.Status
	for pause := 5 * time.Millisecond; ; pause *= 2 {
		raw, err := conn.Status(ctx)
		if err == nil {
			err = json.Unmarshal(raw, &s)
		}
		if err == nil && (s.Relay == nil || s.Relay.Connected) {
			return
		}
		if s.Relay == nil || !s.Relay.GaveUp {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
				continue
			case <-ctx.Done():
			}
			timer.Stop()
		}
		why := ""
		if s.Relay != nil && s.Relay.Error != "" {
			why = ": " + s.Relay.Error
		}
		a.warn("the endpoint serves, but is not registered at its relay %s, so that peers cannot reach it yet%s", c.Relay.Address, why)
		return
	}
}

func (a *app) endpointFoldCmd() *cobra.Command {
	return &cobra.Command{
		Use: "fold NAME", Short: "Move large objects into the database, for proxystore-endpoint",
		Long: `proxyplane keeps large objects of an endpoint with a database as files beside it, where proxystore-endpoint does not find them. This moves them into the
database, so that proxystore-endpoint can serve the directory with all its objects. The endpoint must be stopped.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			home := config.Home()
			dir := filepath.Join(home, args[0])
			switch s := config.GetStatus(home, args[0]); {
			case s == config.Unknown || !config.ValidName(args[0]):
				return unknownEndpoint(args[0])
			case s == config.Running:
				return endpointError(fmt.Errorf("%w: stop endpoint %s first", config.ErrRunning, args[0]))
			}
			c, err := config.Read(dir)
			if err != nil {
				return endpointError(err)
			}
			path := c.Database(dir)
			if path == "" {
				return fail(exitUsage, "endpoint %s keeps its objects in memory: there is nothing to move", args[0])
			}
			s, err := storage.Open(cmd.Context(), storage.Options{Path: path})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			before := s.Usage()
			if err := s.Fold(cmd.Context()); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"name": args[0], "objects": before.Objects, "bytes": before.Bytes, "database": path})
			}
			_, err = fmt.Fprintf(a.out, "%d objects of %d bytes are in %s\n", before.Objects, before.Bytes, path)
			return err
		},
	}
}
