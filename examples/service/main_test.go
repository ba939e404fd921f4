package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// start runs a service on a directory of its own.
func start(t *testing.T, dir string) string {
	handler, closeStore, err := newService(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(handler)
	t.Cleanup(closeStore)
	t.Cleanup(srv.Close)
	return srv.URL
}

func post(t *testing.T, url string, body []byte) (int, []byte) {
	resp, err := http.Post(url, "", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, data
}

func TestService(t *testing.T) {
	dir := t.TempDir()
	object := []byte(strings.Repeat("some data ", 1<<18))
	status, proxy := post(t, start(t, dir)+"/upload", object)
	if status != http.StatusOK || len(proxy) > 1000 {
		t.Fatalf("upload: %d, %s", status, proxy)
	}
	colleague, stranger := start(t, dir), start(t, t.TempDir())
	if status, data := post(t, colleague+"/resolve", proxy); status != http.StatusOK || !bytes.Equal(data, object) {
		t.Errorf("another service on the same store: %d, %d bytes", status, len(data))
	}
	if status, data := post(t, stranger+"/resolve", proxy); status != http.StatusForbidden {
		t.Errorf("a service that is not allowed into that directory: %d, %.100s", status, data)
	}
	if status, _ := post(t, colleague+"/resolve", []byte("no proxy")); status != http.StatusBadRequest {
		t.Errorf("no proxy: %d", status)
	}
}
