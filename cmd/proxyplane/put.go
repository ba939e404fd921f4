package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize"
)

func (a *app) putCmd() *cobra.Command {
	var storePath, as string
	cmd := &cobra.Command{
		Use:   "put --store FILE {FILE|-}",
		Short: "Store a file or standard input as an object and print its key",
		Long: `Store a file or standard input as an object and print its key as one line of JSON:

  {"kind":"file","key":["3d6c..."],"size":1234}

kind and key name the object (get, exists and evict take the whole line); size is the length of the input in bytes. The object appears whole or
not at all, also if proxyplane is killed. Inputs of any length are stored in bounded memory, but for --as npy and json, which are checked first.

  --as bytes  bytes in Python (the default)
  --as str    str in Python; the input must be UTF-8
  --as npy    numpy.ndarray in Python; the input must be a .npy file
  --as json   dict, list, ... in Python; integers stay integers of any size
  --as raw    the input is a whole object as ProxyStore stores it, tag included`,
		Example: "  proxyplane put --store store.toml results.bin\n  tar c dir | proxyplane put --store store.toml -",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkForm(as); err != nil {
				return err
			}
			return a.withStore(cmd.Context(), storePath, func(s *proxyplane.Store) error {
				in, err := a.openInput(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				defer in.close()
				t, err := in.store(cmd.Context(), s, as, serialize.ProxyStore11)
				if err != nil {
					return err
				}
				in.bar.finish()
				line, err := keyLine(t.key, in.read)
				if err != nil {
					return err
				}
				return a.printJSON(line)
			})
		},
	}
	storeFlag(cmd, &storePath, "")
	asFlag(cmd, &as, "bytes", "what the input is: bytes, str, npy, json or raw")
	return cmd
}

// putLine is what put prints. Its fields and their order are part of the interface.
type putLine struct {
	Kind json.RawMessage `json:"kind"`
	Key  json.RawMessage `json:"key"`
	Size int64           `json:"size"`
}

func keyLine(key connectors.Key, size int64) (putLine, error) {
	l := putLine{}
	data, err := connectors.MarshalKey(key)
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	l.Size = size
	return l, err
}
