package main

import (
	"testing"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

func TestWorker(t *testing.T) {
	frequency, err := loudest(t.Context(), testenv.Python(t, testenv.ProxyStore11), t.TempDir())
	if err != nil || frequency != 440 {
		t.Errorf("the loudest frequency is %d, %v; expected 440", frequency, err)
	}
}
