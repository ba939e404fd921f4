package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/all"
	ucxconn "github.com/proxyplane/proxyplane/connectors/ucx"
)

// storeName returns a name that is another one for every connector.
func storeName(kind string, canonical []byte) string {
	sum := sha256.Sum256(canonical)
	if k, ok := connectors.LookupKind(kind); ok {
		kind = k.Kind
	}
	return kind + "-" + hex.EncodeToString(sum[:6])
}

// buildVersion is what this binary was built from.
type buildVersion struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Tags     string `json:"tags"`
	Cgo      bool   `json:"cgo"`
}

func readVersion() (buildVersion, *debug.BuildInfo) {
	v := buildVersion{Version: "(unknown)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v, &debug.BuildInfo{}
	}
	v.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		case "-tags":
			v.Tags = s.Value
		case "CGO_ENABLED":
			v.Cgo = s.Value == "1"
		}
	}
	return v, info
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v, _ := readVersion()
			if a.json {
				return a.printJSON(v)
			}
			line := "proxyplane " + v.Version
			if v.Revision != "" {
				line += " (" + v.Revision[:min(len(v.Revision), 12)] + yesNo(v.Modified, ", modified)", ")")
			}
			_, err := fmt.Fprintf(a.out, "%s %s %s\n", line, v.Go, v.Platform)
			return err
		},
	}
}

// fact is one thing about this machine. Advice is empty if all is well.
type fact struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Advice string `json:"advice,omitempty"`
}

// availability tells whether this program can open a kind of connector.
type availability struct {
	Kind    string   `json:"kind"`
	Python  string   `json:"python,omitempty"`
	Yes     bool     `json:"available"`
	Note    string   `json:"note,omitempty"`
	Devices []string `json:"devices,omitempty"` // that UCX could use
}

// library is a module that is linked into this program.
type library struct {
	Path    string `json:"path"`
	Version string `json:"version"`
}

type diagnosis struct {
	Version    buildVersion   `json:"version"`
	Connectors []availability `json:"connectors"`
	Transports []availability `json:"transports"`
	Host       []fact         `json:"host"`
	Python     []fact         `json:"python,omitempty"`
	Libraries  []library      `json:"libraries"`
}

func (a *app) doctorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Show what this build can do and what this machine offers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var d diagnosis
			var info *debug.BuildInfo
			d.Version, info = readVersion()
			d.Connectors = availableConnectors()
			d.Transports = availableTransports()
			d.Host = append(hostFacts(), fact{Name: "CPUs", Value: fmt.Sprint(runtime.NumCPU())})
			d.Python = pythonFacts(cmd.Context())
			for _, m := range info.Deps {
				if m.Replace != nil {
					m = m.Replace
				}
				d.Libraries = append(d.Libraries, library{m.Path, m.Version})
			}
			if a.json {
				return a.printJSON(d)
			}
			_, err := a.out.Write(d.format())
			return err
		},
	}
}

func availableConnectors() []availability {
	built := all.Registry().Kinds()
	var list []availability
	for _, kind := range connectors.KnownKinds() {
		known, _ := connectors.LookupKind(kind)
		c := availability{Kind: kind, Yes: slices.Contains(built, kind)}
		if known.Class == (connectors.Class{}) {
			c.Note = "Go only; zmq is for Python"
		} else {
			c.Python = known.Class.String()
		}
		if kind == "ucx" && !ucxconn.Built {
			c.Note = "over the native TCP transport, since this build has no UCX; keys with dim_type ucx are out of reach"
		}
		if !c.Yes {
			c.Note = "not in this build: its proxies can be inspected and passed on, not resolved"
			if package_, _, _ := strings.Cut(known.Class.Module, "."); package_ == "proxystore_ex" {
				c.Note += " (Python resolves them with pip install proxystore-ex)"
			}
		}
		list = append(list, c)
	}
	for _, kind := range built { // those that Python does not have
		if _, ok := connectors.LookupKind(kind); !ok {
			list = append(list, availability{Kind: kind, Yes: true, Note: "Go only"})
		}
	}
	return list
}

// availableTransports lists the ways of moving objects between processes without a server in between, or with an object server.
func availableTransports() []availability {
	list := []availability{{Kind: "tcp", Yes: true, Note: "native protocol, with or without TLS"},
		{Kind: "unix", Yes: runtime.GOOS != "windows", Note: "native protocol; gets are mappings on Linux"}, {Kind: "zmq", Yes: true, Note: zmqNote()}, ucxTransport(),
		{Kind: "quic", Yes: true, Note: "between endpoints of proxyplane"}, {Kind: "webrtc", Yes: true, Note: "between endpoints, ProxyStore's too"}}
	return append(list, availability{Kind: "margo", Note: "not in this build"})
}

// ucxTransport says whether UCX is built in, and what it finds here.
func ucxTransport() availability {
	a := availability{Kind: "ucx"}
	c, err := ucx.Open(ucx.Options{Name: "doctor", Features: ucx.AM | ucx.Wakeup})
	if errors.Is(err, ucx.ErrNotBuilt) {
		a.Note = err.Error()
		return a
	}
	loaded, _ := ucx.Version()
	a.Note = "libucp " + loaded
	if err != nil {
		a.Note += ": " + err.Error()
		return a
	}
	defer c.Close()
	a.Yes = true
	for line := range strings.Lines(c.Info()) {
		if _, device, ok := strings.Cut(strings.TrimSpace(line), " flags -- "); ok {
			a.Devices = append(a.Devices, strings.TrimSpace(device))
		}
	}
	return a
}

// pythonFacts looks for a Python with ProxyStore on PATH.
func pythonFacts(ctx context.Context) []fact {
	path, err := exec.LookPath("python3")
	if err != nil {
		return []fact{{"python3", "not on PATH", "only needed to resolve proxies from Python"}}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	const script = `import platform
print(platform.python_version())
for name in ('proxystore', 'proxystore_ex', 'numpy'):
    try:
        print(__import__('importlib.metadata').metadata.version(name.replace('_', '-')))
    except Exception:
        print('no')
`
	out, err := exec.CommandContext(ctx, path, "-c", script).Output()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 4 {
		return []fact{{"python3", path, "it does not run"}}
	}
	facts := []fact{{Name: "python3", Value: lines[0] + " (" + path + ")"}}
	for i, name := range []string{"proxystore", "proxystore-ex", "numpy"} {
		f := fact{Name: name, Value: lines[i+1]}
		if f.Value == "no" {
			f.Value = "not installed for this python3"
			if name == "proxystore" {
				f.Advice = "to resolve proxies from Python: pip install proxystore==1.1.0"
			}
		}
		facts = append(facts, f)
	}
	return facts
}

func (d diagnosis) format() []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	v := d.Version
	fmt.Fprintf(w, "version\t%s\n", v.Version)
	if v.Revision != "" {
		fmt.Fprintf(w, "revision\t%s %s%s\n", v.Revision, v.Time, yesNo(v.Modified, ", modified", ""))
	}
	fmt.Fprintf(w, "built\t%s %s, %s, build tags: %s\n", v.Go, v.Platform, yesNo(v.Cgo, "cgo on", "cgo off"), yesNo(v.Tags == "", "none", v.Tags))
	for _, part := range []struct {
		title string
		list  []availability
	}{{"connectors", d.Connectors}, {"transports", d.Transports}} {
		fmt.Fprintf(w, "\n%s\n", part.title)
		for _, c := range part.list {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", c.Kind, yesNo(c.Yes, "yes", "no"), c.Note+yesNo(c.Devices == nil, "", "; devices: "+strings.Join(c.Devices, ", ")))
		}
	}
	for _, part := range []struct {
		title string
		facts []fact
	}{{"this machine", d.Host}, {"Python", d.Python}} {
		fmt.Fprintf(w, "\n%s\n", part.title)
		for _, f := range part.facts {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", f.Name, f.Value, f.Advice)
		}
	}
	fmt.Fprintf(w, "\nlibraries\n")
	for _, l := range d.Libraries {
		fmt.Fprintf(w, "  %s\t%s\n", l.Path, l.Version)
	}
	w.Flush()
	// tabwriter pads empty last cells.
	lines := bytes.Split(b.Bytes(), []byte("\n"))
	for i, l := range lines {
		lines[i] = bytes.TrimRight(l, " ")
	}
	return bytes.Join(lines, []byte("\n"))
}

// readFact returns the trimmed content of a small file of the kernel, empty if there is none.
func readFact(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
