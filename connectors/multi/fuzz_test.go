package multi

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
)

// FuzzOptions opens configurations as if they came in a proxy: nothing panics, and what opens is a fixed point.
func FuzzOptions(f *testing.F) {
	data, err := os.ReadFile("testdata/policies.json")
	if err != nil {
		f.Fatal(err)
	}
	var r struct{ Config json.RawMessage }
	if err := json.Unmarshal(data, &r); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(r.Config))
	f.Add([]byte(`{"a":["multi",{"b":["multi",{"c":["local",{},{}]},{"priority":-1}]},{"host_pattern":["x","y"]}]}`))
	f.Add([]byte(`{"a":["local",{},{"max_size_bytes":1e300,"min_size_bytes":-1,"host_pattern":"(?i)[[:x]"}],"b":["local",null,{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg := connectors.Config{Kind: "multi"}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		if dec.Decode(&cfg.Options) != nil {
			return
		}
		ctx, reg, env := t.Context(), registry(), &connectors.Env{Received: true}
		if _, err := reg.Travelling(cfg, true); err == nil {
			if _, err := reg.Travelling(cfg, false); err != nil {
				t.Fatalf("travels to Python and not to Go: %v", err)
			}
		}
		_, locErr := reg.Locations(cfg, env)
		c, err := reg.Open(ctx, cfg, env)
		if err != nil {
			if locErr == nil {
				t.Fatalf("has locations and does not open: %v", err)
			}
			return
		}
		if !c.Config().Equal(cfg) {
			t.Fatalf("%v became %v", cfg, c.Config())
		}
		if _, err := c.Put(ctx, nil); err == nil {
			if d, err := reg.Open(ctx, c.Config(), nil); err == nil { // its children could all be opened
				if err := d.Close(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	})
}
