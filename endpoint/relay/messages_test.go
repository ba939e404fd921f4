package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
)

var (
	one = uuid.MustParse("6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01")
	two = uuid.MustParse("0c9d2f8e-1111-4222-8333-944455556666")
)

// golden are messages and what Python makes of them; TestPythonCodec checks that.
var golden = []struct {
	m    Message
	text string
}{
	{Registration{"ep\"é\x7f𝄞\x00\\", one},
		`{"name": "ep\"\u00e9\u007f\ud834\udd1e\u0000\\", "uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01", "message_type": "relay_registration"}`},
	{Response{Success: true}, `{"success": true, "message": null, "error": false, "message_type": "relay_response"}`},
	{Response{Message: "ForbiddenError: no", Error: true}, `{"success": false, "message": "ForbiddenError: no", "error": true, "message_type": "relay_response"}`},
	{PeerConnection{one, "a", two, "offer", "{\"sdp\": \"v=0\\r\\n\"}", ""},
		`{"source_uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01", "source_name": "a", "peer_uuid": "0c9d2f8e-1111-4222-8333-944455556666", ` +
			`"description_type": "offer", "description": "{\"sdp\": \"v=0\\r\\n\"}", "error": null, "message_type": "peer_connection"}`},
	{PeerConnection{one, "\b\f\t/", two, "answer", "", "gone"},
		`{"source_uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01", "source_name": "\b\f\t/", "peer_uuid": "0c9d2f8e-1111-4222-8333-944455556666", ` +
			`"description_type": "answer", "description": "", "error": "gone", "message_type": "peer_connection"}`},
}

// accepted are texts that are messages too.
var accepted = []string{
	`{"message_type": "relay_response"}`,
	`{"message_type": "relay_response", "success": false, "error": true}`,
	` { "uuid" : "{6ed1f3b28a3c4a529e0c0b3f6f9b8a01}" , "message_type" : "relay_registration" , "name":"" } `,
	`{"message_type": "relay_registration", "name": "x", "uuid": "urn:uuid:6ED1F3B2-8a3c-4a52-9e0c-0b3f6f9b8a01"}`,
	`{"message_type": "relay_registration", "name": "x", "name": "y", "uuid": "6-ed1f3b28a3c4a529e0c0b3f6f9b8a0-1"}`,
	`{"message_type": "peer_connection", "source_uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01", "source_name": "", "peer_uuid": "0c9d2f8e-1111-4222-8333-944455556666", ` +
		`"description_type": "neither", "description": "x"}`,
}

// refused are texts that neither Python nor we take.
var refused = []string{
	``, `{`, `null`, `[]`, `"x"`, `1`, `{}`, `{"message_type": null}`, `{"message_type": "x"}`, `{"message_type": ["relay_response"]}`, `{"Message_Type": "relay_response"}`,
	`{"message_type": "relay_response", "extra": 1}`, `{"message_type": "relay_response", "Success": true}`, `{"message_type": "relay_response"} x`,
	`{"message_type": "relay_registration", "name": "x"}`, `{"message_type": "relay_registration", "uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01"}`,
	`{"message_type": "relay_registration", "name": "x", "uuid": "6ed1f3b2"}`, `{"message_type": "relay_registration", "name": "x", "uuid": 5}`,
	`{"message_type": "relay_registration", "name": "x", "uuid": null}`, `{"message_type": "relay_registration", "name": "x", "uuid": "zed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01"}`,
	`{"message_type": "relay_registration", "name": "x", "uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01", "uuid2": "x"}`,
	`{"message_type": "peer_connection", "source_uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01"}`,
}

// strict are texts that Python takes, with values in fields that are of another type, and we do not.
var strict = []string{
	`{"message_type": "relay_registration", "name": 1, "uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01"}`,
	`{"message_type": "relay_registration", "name": null, "uuid": "6ed1f3b2-8a3c-4a52-9e0c-0b3f6f9b8a01"}`,
	`{"message_type": "relay_response", "success": null}`, `{"message_type": "relay_response", "success": "yes"}`, `{"message_type": "relay_response", "message": {"a": NaN}}`,
}

func TestCodec(t *testing.T) {
	for _, g := range golden {
		if data, err := Encode(g.m); err != nil || string(data) != g.text {
			t.Errorf("Encode(%+v) = %s, %v; want %s", g.m, data, err, g.text)
		}
		if m, err := Decode([]byte(g.text)); err != nil || m != g.m {
			t.Errorf("Decode(%s) = %+v, %v", g.text, m, err)
		}
	}
	for _, text := range accepted {
		if m, err := Decode([]byte(text)); err != nil {
			t.Errorf("Decode(%s) = %+v, %v", text, m, err)
		}
	}
	for _, text := range append(append([]string{"\xff", `{"message_type": "relay_response", "message": "` + "\xff" + `"}`}, refused...), strict...) {
		if m, err := Decode([]byte(text)); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("Decode(%s) = %+v, %v", text, m, err)
		}
	}
	if _, err := Encode(Registration{Name: "\xff"}); err == nil {
		t.Error("a name that is no text was encoded")
	}
	if _, err := Encode(nil); err == nil {
		t.Error("nil was encoded")
	}
	if _, err := Decode([]byte(strings.Repeat("[", 100_000))); err == nil {
		t.Error("a tower of brackets was decoded")
	}
}

func FuzzDecode(f *testing.F) {
	for _, g := range golden {
		f.Add([]byte(g.text))
	}
	for _, texts := range [][]string{accepted, refused, strict} {
		for _, text := range texts {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			if !errors.Is(err, transport.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(again); err != nil || got != m {
			t.Fatalf("%s: %+v, then %+v, %v", data, m, got, err)
		}
		if len(again) > 6*len(data)+512 {
			t.Fatalf("%d bytes became %d", len(data), len(again))
		}
	})
}

// TestPythonCodec: Python reads what we write as we do, writes the same bytes, and refuses what we refuse, but for strict.
func TestPythonCodec(t *testing.T) {
	python := testenv.Python(t, testenv.ProxyStore11)
	texts := append([]string{}, accepted...)
	for _, g := range golden {
		texts = append(texts, g.text)
	}
	r := rand.New(rand.NewPCG(5, 5))
	text := func() string {
		alphabet := []rune("ab\"\\/\b\f\n\r\t\x00\x1f\x7f\u0080é߿\u2028￿𝄞\U0010ffff<>&'{}")
		out := make([]rune, r.IntN(20))
		for i := range out {
			out[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(out)
	}
	for range 300 {
		var id [2]uuid.UUID
		for i := range id {
			for j := range id[i] {
				id[i][j] = byte(r.Uint32())
			}
		}
		for _, m := range []Message{
			Registration{text(), id[0]}, Response{r.IntN(2) == 0, text(), r.IntN(2) == 0}, PeerConnection{id[0], text(), id[1], text(), text(), text()},
		} {
			data, err := Encode(m)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(data))
		}
	}
	valid := len(texts)
	texts = append(texts, refused...)
	texts = append(texts, strict...)
	for range 3000 { // damaged ones: what we take Python must take
		b := []byte(texts[r.IntN(valid)])
		for range 1 + r.IntN(2) {
			i := r.IntN(len(b))
			switch r.IntN(3) {
			case 0:
				b[i] = byte(' ' + r.IntN(95))
			case 1:
				b = append(b[:i], b[i+1:]...)
			case 2:
				b = append(b[:i], append([]byte{`{}[],:"\0ue`[r.IntN(11)]}, b[i:]...)...)
			}
		}
		texts = append(texts, string(b))
	}
	input, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", `
import json, sys
from proxystore.p2p.relay.messages import decode_relay_message, encode_relay_message
out = []
for text in json.load(sys.stdin):
    try:
        out.append(encode_relay_message(decode_relay_message(text)))
    except Exception as e:
        out.append(None)
json.dump(out, sys.stdout)
`)
	cmd.Stdin = strings.NewReader(string(input))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var answers []*string
	if err := json.Unmarshal(output, &answers); err != nil || len(answers) != len(texts) {
		t.Fatal(err, len(answers))
	}
	// Empty optional texts become null here.
	same := func(ours, theirs string) bool {
		return ours == strings.NewReplacer(`"message": ""`, `"message": null`, `"error": ""`, `"error": null`).Replace(theirs)
	}
	taken := 0
	for i, text := range texts {
		m, err := Decode([]byte(text))
		theirs := answers[i]
		switch {
		case err != nil && theirs != nil:
			if i < valid {
				t.Errorf("%s: Python takes it, we do not: %v", text, err)
			}
		case err == nil && theirs == nil:
			t.Errorf("%s: we take it as %+v, Python does not", text, m)
		case err == nil:
			taken++
			ours, err := Encode(m)
			if err != nil {
				t.Fatal(err)
			}
			if !same(string(ours), *theirs) && !strings.Contains(*theirs, `\ud`) { // half a surrogate pair, which Go's strings cannot hold
				t.Errorf("%s: we make of it\n%s, Python\n%s", text, ours, *theirs)
			}
		case i >= valid && i < valid+len(refused): // both refuse it
		}
	}
	for i := range refused {
		if answers[valid+i] != nil {
			t.Errorf("%s: Python takes it", refused[i])
		}
	}
	for i := range strict {
		if answers[valid+len(refused)+i] == nil {
			t.Errorf("%s: Python does not take it", strict[i])
		}
	}
	t.Log(fmt.Sprintf("%d of %d texts are messages", taken, len(texts)))
}
