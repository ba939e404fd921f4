package main

import (
	"strings"
	"testing"
)

func TestPartial(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out, t.TempDir(), 300_000); err != nil {
		t.Fatal(err)
	}
	const want = "id 700000 is record 100000 of 300000, found with 18 reads of 16 bytes\n" +
		"the values of all 4800000 bytes add up to 1350000\n"
	if out.String() != want {
		t.Errorf("printed\n%sexpected\n%s", out.String(), want)
	}
}
