package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/hal"
)

// TestDial: a broker that listens, one that does not, and an address that is none.
func TestDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "mqtt://" + l.Addr().String()
	if d := dial(t.Context(), "home broker", address); !d.OK || d.Detail != address || d.Fix != "" {
		t.Errorf("one that listens: %+v", d)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{address, "mqtt://[::1", "mqtt://127.0.0.1:99999"} {
		if d := dial(t.Context(), "home broker", a); d.OK || d.Detail == "" || d.Fix == "" || d.Subject != "home broker" {
			t.Errorf("%s: %+v", a, d)
		}
	}
}

// TestReport: every line of a report that is not ok has a fix below it, and JSON has
// the same under plain names.
func TestReport(t *testing.T) {
	r := &report{Version: "1.0.0", Board: firmware.Board{Name: "Raspberry Pi 5", RAM: 4 << 30, CPUs: 4, Profile: firmware.Profile{ID: "raspberrypi-5"}}, Arch: "arm64",
		Devices: []hal.Device{{Accelerator: hal.XNNPACK, Name: "4 cores", Runtime: "tflite 2.17.1"},
			{Accelerator: hal.EdgeTPU, Name: "Coral", Runtime: "tflite 2.17.1", Driver: "libedgetpu 16.0TF2.17.1"}},
		Diagnoses: []hal.Diagnosis{{Subject: "glibc", OK: true, Detail: "2.36"}, {Subject: "power", Detail: "under-voltage now", Fix: "use the board's own power supply"}}}
	var text, data bytes.Buffer
	if err := r.print(&text, false); err != nil {
		t.Fatal(err)
	}
	want := `covey-agent 1.0.0 on Raspberry Pi 5 (arm64, 4 cores, 4096 MiB), known as raspberrypi-5
can run on  xnnpack  4 cores  tflite 2.17.1
can run on  edgetpu  Coral    tflite 2.17.1, libedgetpu 16.0TF2.17.1
ok          glibc    2.36
mend        power    under-voltage now
                     fix: use the board's own power supply
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &text, want)
	}
	if err := r.print(&data, true); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Board struct {
			Name string
			RAM  int64
		}
		Devices, Diagnoses []map[string]any
	}
	if err := json.Unmarshal(data.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Board.Name != "Raspberry Pi 5" || len(got.Devices) != 2 || got.Diagnoses[1]["fix"] == nil || strings.Contains(data.String(), `"Name"`) {
		t.Errorf("%s", &data)
	}
}

// TestChosen: a broken file of choices has a line that mends it; none has no line.
func TestChosen(t *testing.T) {
	data := t.TempDir()
	if list := chosen(data); list != nil {
		t.Errorf("without a file: %+v", list)
	}
	if err := os.WriteFile(agent.ChoicesPath(data), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list := chosen(data); len(list) != 1 || list[0].OK || !strings.Contains(list[0].Fix, filepath.Join(data, "accelerators.json")) {
		t.Errorf("broken: %+v", list)
	}
}

// TestExamineFile: what a configuration needs and what is not there makes lines, each
// of one line and with a fix.
func TestExamineFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	for text, want := range map[string][]string{
		"": {"configuration"},
		"pipelines: {a: {sorce: 1}, b: {sorce: 1}}": {"configuration"},
		"delegates: [{library: libnone_delegate.so}]\npipelines: {a: {source: {type: folder, path: none}, model: none.tflite}, b: {source: {type: folder, path: no}}}": {
			"delegate libnone_delegate.so", "model of pipeline a", "sources"},
	} {
		if text != "" {
			if err := os.WriteFile(path, []byte("data: data\n"+text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		var list []hal.Diagnosis
		if file, err := agent.ReadFile(path); err != nil {
			list = append(list, broken(path, err))
		} else {
			list = examineFile(t.Context(), path, file)
		}
		bad := map[string]bool{}
		for _, d := range list {
			if strings.Contains(d.Detail+d.Fix, "\n") || d.OK != (d.Fix == "") {
				t.Errorf("%+v: want one line, and a fix where it is not OK", d)
			}
			bad[d.Subject] = bad[d.Subject] || !d.OK
		}
		for _, subject := range want {
			if !bad[subject] {
				t.Errorf("%s: nothing of %q in %+v", text, subject, list)
			}
		}
	}
}
