package endpoint

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/endpoint/config"
)

//go:embed proxyplane-endpoint.service
var serviceUnit string

// directives are those of systemd.unit(5), systemd.service(5), systemd.exec(5) and systemd.kill(5) that the example uses; systemd would only warn of a
// misspelled one, and go on without.
var directives = map[string][]string{
	"Unit": {"Description", "Documentation", "Wants", "After", "StartLimitIntervalSec", "StartLimitBurst"},
	"Service": {"Type", "User", "StateDirectory", "StateDirectoryMode", "Environment", "ExecStart", "Restart", "RestartSec", "KillSignal", "TimeoutStopSec", "LimitNOFILE",
		"UMask", "NoNewPrivileges", "CapabilityBoundingSet", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectKernelTunables",
		"ProtectKernelModules", "ProtectControlGroups", "RestrictSUIDSGID", "RestrictRealtime", "RestrictNamespaces", "LockPersonality", "MemoryDenyWriteExecute",
		"RestrictAddressFamilies", "SystemCallArchitectures", "SystemCallFilter"},
	"Install": {"WantedBy"},
}

func TestServiceUnit(t *testing.T) {
	got := map[string]map[string]string{}
	section := ""
	for i, line := range strings.Split(serviceUnit, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case line[0] == '[':
			section = strings.Trim(line, "[]")
			if directives[section] == nil || got[section] != nil {
				t.Errorf("line %d: section %q", i+1, section)
			}
			got[section] = map[string]string{}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if _, twice := got[section][key]; !ok || twice || !slices.Contains(directives[section], key) {
			t.Errorf("line %d: %q", i+1, line)
			continue
		}
		got[section][key] = value
	}
	s := got["Service"]
	if !strings.HasPrefix(s["ExecStart"], "/") || !strings.HasSuffix(s["ExecStart"], " endpoint start --no-detach %i") {
		t.Error(s["ExecStart"])
	}
	if s["Environment"] != "PROXYSTORE_HOME=/var/lib/"+s["StateDirectory"] {
		t.Error(s["Environment"])
	}
	if n, err := strconv.Atoi(s["TimeoutStopSec"]); err != nil || time.Duration(n)*time.Second <= config.DefaultGrace || config.DefaultGrace <= DefaultGrace {
		t.Error("an endpoint would be killed while it ends", s["TimeoutStopSec"])
	}
	if got["Install"]["WantedBy"] == "" || got["Unit"]["Description"] == "" {
		t.Error(got)
	}
}
