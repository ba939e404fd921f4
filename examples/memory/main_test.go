package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestMain is the second process as well, since the service starts its own program.
func TestMain(m *testing.M) {
	if !slices.Contains(os.Args, "-reader") {
		os.Exit(m.Run())
	}
	if err := read(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestMemory(t *testing.T) {
	var out strings.Builder
	if err := serve(t.Context(), 1_000_001, &out); err != nil {
		t.Fatal(err)
	}
	want := []string{"a result of 8000008 bytes is in memory", "8000011 bytes in", "the last value is 1000.000"}
	if runtime.GOOS == "linux" {
		want = append(want, "reader: mapped")
	}
	for _, w := range want {
		if !strings.Contains(out.String(), w) {
			t.Errorf("printed %s, which lacks %q", out.String(), w)
		}
	}
}
