package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors/all"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
)

func (a *app) inspectCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect {PROXYFILE|-}",
		Short: "Show what a proxy says, without contacting anything",
		Long: `Show what a proxy says: store, connector and its options, key, evict, flavour. Nothing is contacted and nothing is executed; passwords are not
shown. For a pickle that is no proxy the structure is shown, and the exit code is 5.`,
		Example: "  proxyplane inspect results.proxy\n  proxyplane inspect --json - < results.proxy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := a.readProxy(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			info, err := proxyplane.Inspect(data)
			if err != nil {
				return a.inspectOther(args[0], data, err)
			}
			info.Options = redact(info.Kind, info.Options)
			if a.json {
				return a.printJSON(info)
			}
			var b bytes.Buffer
			w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			row := func(name string, v any) { fmt.Fprintf(w, "%s\t%s\n", name, printable(fmt.Sprint(v))) }
			row("form", info.Form)
			row("flavour", info.Flavour)
			row("store", info.Store)
			row("connector", info.Kind+" ("+info.Connector+")")
			for _, name := range slices.Sorted(maps.Keys(info.Options)) {
				row("  "+name, shorten(info.Options[name]))
			}
			row("key", shortenText(string(info.Key)))
			row("evict", yesNo(info.Evict, "yes, when resolved", "no"))
			if info.Class != "" {
				row("class", info.Class)
			}
			if f := info.Future; f != nil {
				limit := "for ever"
				if f.Timeout != nil {
					limit = fmt.Sprintf("at most %v s", *f.Timeout)
				}
				row("future", "waits for its value "+limit)
			}
			if info.Deserializer != "" {
				row("deserializer", info.Deserializer+" (only Python can read the object)")
			}
			w.Flush()
			_, err = a.out.Write(b.Bytes())
			return err
		},
	}
}

// inspectOther tells what something is that is no proxy. It always fails.
func (a *app) inspectOther(path string, data []byte, why error) error {
	report := struct {
		Error  string `json:"error"`
		What   string `json:"what"`
		Pickle string `json:"pickle,omitempty"`
	}{Error: why.Error()}
	if tag, body, err := serialize.Tag(data); err == nil {
		report.What = fmt.Sprintf("a stored object with tag %s and %d bytes of content, not a proxy", tag, len(body))
	} else if v, err := pickle.Decode(data); err == nil {
		var b strings.Builder
		if err := pickle.Dump(&b, v); err != nil {
			return err
		}
		report.What, report.Pickle = "a pickle, but not of a proxy", b.String()
	} else if se := (*pickle.SyntaxError)(nil); errors.As(err, &se) && data[0] == 0x80 {
		report.What = fmt.Sprintf("a damaged pickle: %v", se)
	} else {
		report.What = "neither a proxy nor a pickle"
	}
	if a.json {
		if err := a.printJSON(report); err != nil {
			return err
		}
	} else if report.Pickle != "" {
		fmt.Fprint(a.out, report.Pickle)
	}
	return fail(exitBadInput, "%s is %s: %w", path, report.What, why)
}

func yesNo(v bool, yes, no string) string {
	if v {
		return yes
	}
	return no
}

// shorten returns an option's value for people.
func shorten(v any) string {
	switch v := v.(type) {
	case string:
		return shortenText(v)
	case []byte:
		return fmt.Sprintf("%d bytes", len(v))
	case nil:
		return "none"
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("a %T", v)
	}
	return shortenText(string(data))
}

func shortenText(s string) string {
	const most = 300
	if len(s) > most {
		return fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(s[:most], ""), len(s))
	}
	return s
}

// redacted stands for a secret.
const redacted = "(not shown)"

// redact returns options without secrets: those that the driver calls secret, and those that sound like one. Connectors within (multi) are
// treated alike.
func redact(kind string, options map[string]any) map[string]any {
	var secret []string
	if d, err := all.Registry().Driver(kind); err == nil {
		secret = d.Secret
	}
	out := make(map[string]any, len(options))
	for name, v := range options {
		out[name] = redactValue(name, v, slices.Contains(secret, name))
	}
	return out
}

func redactValue(name string, v any, secret bool) any {
	lower := strings.ToLower(name)
	for _, word := range []string{"password", "passwd", "secret", "token", "credential", "private_key"} {
		secret = secret || strings.Contains(lower, word)
	}
	if secret && v != nil && v != "" {
		return redacted
	}
	switch v := v.(type) {
	case map[string]any:
		return redact("", v)
	case []any:
		if len(v) == 3 { // a child of a multi connector: [path, options, policy]
			if kind, ok := v[0].(string); ok {
				if options, ok := v[1].(map[string]any); ok {
					return []any{kind, redact(kind, options), v[2]}
				}
			}
		}
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = redactValue("", e, false)
		}
		return out
	case string:
		return redactURL(v)
	}
	return v
}

// redactURL removes the password from a URL.
func redactURL(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@')
	colon := strings.IndexByte(rest[:max(at, 0)], ':')
	if colon < 0 {
		return s
	}
	return scheme + "://" + rest[:colon+1] + redacted + rest[at:]
}
