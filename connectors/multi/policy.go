package multi

import (
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/proxyplane/proxyplane/connectors"
)

// Policy says which objects a child takes: proxystore.connectors.multi.Policy. The zero Policy takes everything everywhere.
type Policy struct {
	Priority int // children with a higher one are asked first

	// HostPattern lists Python regular expressions, one of which must match the whole host name. Nil: any host. Empty but not nil: no host,
	// as in Python. One has at most 256 bytes, and a bounded size once its repetitions are written out.
	HostPattern []string

	MinSizeBytes int64 // smallest object
	MaxSizeBytes int64 // largest object; 0: no limit, Python's default of sys.maxsize

	SubsetTags   []string // an object's subset tags must all be among these
	SupersetTags []string // an object's superset tags must include all of these

	single    bool // HostPattern was one string, and travels as one
	onlyEmpty bool // max_size_bytes was given as 0, which the zero value cannot say
}

// maxSize returns the largest object that the policy takes.
func (p Policy) maxSize() int64 {
	if p.MaxSizeBytes == 0 && !p.onlyEmpty {
		return math.MaxInt64
	}
	return p.MaxSizeBytes
}

// Valid reports whether the policy takes an object of that size with those tags, as Policy.is_valid does; the host is [Policy.ValidOnHost]'s part. A
// negative size or nil tags are not checked.
func (p Policy) Valid(size int64, tags connectors.Tags) bool {
	if size >= 0 && (size < p.MinSizeBytes || size > p.maxSize()) {
		return false
	}
	return subset(tags.Subset, p.SubsetTags) && (tags.Superset == nil || subset(p.SupersetTags, tags.Superset))
}

// subset reports whether every element of a is in b.
func subset(a, b []string) bool {
	for _, s := range a {
		if !slices.Contains(b, s) {
			return false
		}
	}
	return true
}

// ValidOnHost reports whether the policy is for that host, as Policy.is_valid_on_host does. A pattern that cannot be used is a
// [connectors.ErrConfig].
func (p Policy) ValidOnHost(hostname string) (bool, error) {
	valid := p.HostPattern == nil
	for _, pattern := range p.HostPattern { // all of them, so that a bad one shows on every host
		re, err := compile(pattern)
		if err != nil {
			return false, err
		}
		valid = valid || re.MatchString(hostname)
	}
	return valid, nil
}

// What one pattern may cost: a few bytes, such as \w{1000}, may compile to megabytes.
const (
	maxPattern = 256
	maxStates  = 2048
)

// states estimates how large an expression becomes once its counted repetitions are written out.
func states(re *syntax.Regexp) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n = min(n+states(sub), maxStates+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	if re.Op == syntax.OpCharClass {
		n += len(re.Rune) / 64
	}
	return min(n, maxStates+1)
}

// compile returns a Go expression that matches what Python's re.fullmatch does.
func compile(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("%w: a host_pattern of %d bytes; the most is %d, so list several", connectors.ErrConfig, len(pattern), maxPattern)
	}
	body := translate(pattern)
	// By itself first: a pattern that closes our group would match something else than it says.
	parsed, err := syntax.Parse(body, syntax.Perl)
	if err == nil && states(parsed) > maxStates {
		return nil, fmt.Errorf("%w: host_pattern %.200q repeats too much; a host name has at most 253 characters, so use smaller counts, or *",
			connectors.ErrConfig, pattern)
	}
	var re *regexp.Regexp
	if err == nil {
		re, err = regexp.Compile(`\A(?:` + body + `)\z`)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: host_pattern %.200q: %v (lookaround, back references and possessive or conditional groups are not supported; "+
			"list several plain patterns instead)", connectors.ErrConfig, pattern, err)
	}
	return re, nil
}

// translate rewrites what both languages accept but read differently: {,n} is {0,n} in Python and literal in Go, "[" within a class is literal in
// Python and may start [:alpha:] in Go, and \Z is Go's \z.
func translate(pattern string) string {
	var b strings.Builder
	class := false
	for i := 0; i < len(pattern); i++ {
		rest := pattern[i:]
		switch {
		case rest[0] == '\\' && len(rest) > 1:
			i++
			if rest[1] == 'Z' && !class {
				b.WriteString(`\z`)
			} else {
				b.WriteString(rest[:2])
			}
		case class && rest[0] == '[':
			b.WriteString(`\[`)
		case class:
			class = rest[0] != ']'
			b.WriteByte(rest[0])
		case rest[0] == '[':
			class = true
			start := "["
			if strings.HasPrefix(rest, "[^") {
				start = "[^"
			}
			if strings.HasPrefix(rest[len(start):], "]") { // a first "]" is literal
				start += `]`
			}
			b.WriteString(start)
			i += len(start) - 1
		case strings.HasPrefix(rest, "{,") && strings.HasPrefix(strings.TrimLeft(rest[2:], "0123456789"), "}"):
			b.WriteString("{0,")
			i++
		default:
			b.WriteByte(rest[0])
		}
	}
	return b.String()
}

// options returns the policy as Policy.as_dict does.
func (p Policy) options() map[string]any {
	var host any
	switch {
	case p.single && len(p.HostPattern) == 1:
		host = p.HostPattern[0]
	case p.HostPattern != nil:
		host = list(p.HostPattern)
	}
	return map[string]any{
		"priority":       int64(p.Priority),
		"host_pattern":   host,
		"min_size_bytes": p.MinSizeBytes,
		"max_size_bytes": p.maxSize(),
		"subset_tags":    list(p.SubsetTags),
		"superset_tags":  list(p.SupersetTags),
	}
}

func list(s []string) []any {
	l := make([]any, len(s))
	for i, e := range s {
		l[i] = e
	}
	return l
}

// parsePolicy reads what Policy.as_dict writes. Every field may be absent.
func parsePolicy(m map[string]any) (Policy, error) {
	o := connectors.NewOptions("policy", m)
	p := Policy{
		Priority:     int(o.Int("priority", 0, math.MinInt, math.MaxInt)),
		HostPattern:  o.Strings("host_pattern"),
		MinSizeBytes: o.Int("min_size_bytes", 0, math.MinInt64, math.MaxInt64),
		MaxSizeBytes: maxSizeOption(o),
		SubsetTags:   tagList(o, "subset_tags"),
		SupersetTags: tagList(o, "superset_tags"),
	}
	_, p.single = m["host_pattern"].(string)
	p.onlyEmpty = p.MaxSizeBytes == 0
	return p, o.Err()
}

// maxSizeOption takes a float that is beyond every size for no limit: readers of JSON that know only float64 make one of sys.maxsize, and
// Python's users may write float("inf").
func maxSizeOption(o *connectors.Options) int64 {
	if f, ok := o.Value("max_size_bytes").(float64); ok && f >= math.MaxInt64 {
		return math.MaxInt64
	}
	return o.Int("max_size_bytes", math.MaxInt64, math.MinInt64, math.MaxInt64)
}

// tagList refuses a single string, which Python would take for a list of letters.
func tagList(o *connectors.Options, name string) []string {
	if s, ok := o.Value(name).(string); ok {
		o.Fail(name, "must be a list of strings; write [%q]", s)
		return nil
	}
	return o.Strings(name)
}
