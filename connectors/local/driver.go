package local

import (
	"context"
	"encoding/base64"
	"math"

	"github.com/proxyplane/proxyplane/connectors"
)

// Driver returns the driver of this connector, for a [connectors.Registry]. Options, beside Python's two: storage and max_bytes, which are
// fields of [Options]. The values of store_dict are bytes, or strings of base64 as JSON has them.
func Driver() connectors.Driver {
	return connectors.Driver{
		Kind:          kind,
		Class:         connectors.Class{Module: "proxystore.connectors.local", Name: "LocalConnector"},
		PythonOptions: []string{"store_dict", "include_data_in_config"},
		Open: func(_ context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			if env.Received {
				opts.Storage = "" // a stranger must neither read this process's objects nor put any where it will look
			}
			return New(opts), nil
		},
		Locations: func(o *connectors.Options, _ *connectors.Env) ([]connectors.Location, error) {
			parse(o)
			return []connectors.Location{{Kind: kind}}, o.Err()
		},
	}
}

func parse(o *connectors.Options) Options {
	opts := Options{
		Storage:             o.String("storage", ""),
		IncludeDataInConfig: o.Bool("include_data_in_config", false),
		MaxBytes:            o.Int("max_bytes", 0, 0, math.MaxInt64),
	}
	switch dict := o.Value("store_dict").(type) {
	case nil:
	case map[string]any:
		opts.StoreDict = make(map[string][]byte, len(dict))
		for id, v := range dict {
			switch v := v.(type) {
			case []byte:
				opts.StoreDict[id] = v
			case string:
				data, err := base64.StdEncoding.DecodeString(v)
				if err != nil {
					o.Fail("store_dict", "must hold bytes or base64; the value of %.50q is neither: %v", id, err)
				}
				opts.StoreDict[id] = data
			default:
				o.Fail("store_dict", "must hold bytes or base64; the value of %.50q is a %T", id, v)
			}
		}
	default:
		o.Fail("store_dict", "must be a table of bytes by id, not %T", dict)
	}
	return opts
}
