package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/firmware"
	"github.com/covey-edge/covey/hal"
)

func TestTenLinesAreEnoughForAHome(t *testing.T) {
	f, err := ParseFile("agent.yaml", "/etc/covey", []byte(`
home:
  broker: mqtt://192.168.1.10
pipelines:
  birds:
    source: {type: folder, path: /srv/pictures, watch: true}
    model: mobilenet.tflite
`))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Pipelines[0]
	if f.Home.Broker != "mqtt://192.168.1.10:1883" || p.Name != "birds" || p.Model != "/etc/covey/mobilenet.tflite" ||
		p.Source.Path != "/srv/pictures" || !p.Source.Watch || p.Accelerator != hal.Auto || f.Data != DefaultData || f.Log != "info" {
		t.Errorf("got %+v home %+v", f, f.Home)
	}
	id, err := f.DeviceName()
	if err != nil && hal.CodeOf(err) != hal.CodeConfig || err == nil && id == "" {
		t.Errorf("device name %q, %v", id, err)
	}
}

// The example works as it is, and with every setting that it shows switched on.
func TestExampleConfig(t *testing.T) {
	f, err := ParseFile("agent.example.yaml", "/etc/covey", []byte(firmware.ExampleConfig))
	if err != nil {
		t.Fatal(err)
	}
	if f.Device != "porch" || f.Home == nil || len(f.Pipelines) != 1 || f.Pipelines[0].Model != "/etc/covey/mobilenet.tflite" {
		t.Errorf("got %+v", f)
	}
	setting := regexp.MustCompile(`(?m)^( *)# ( *[a-z_]+:( |$))`)
	f, err = ParseFile("agent.example.yaml", "/etc/covey", []byte(setting.ReplaceAllString(firmware.ExampleConfig, "$1$2")))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Pipelines[0]
	shown := map[string]bool{}
	for _, p := range f.Pipelines {
		shown[p.Source.Type] = true
	}
	if len(shown) != len(sourceTypes) || len(f.Delegates) == 0 || len(f.Settings) == 0 || p.Fit == "" || f.Fleet.URL == "" || f.Fleet.Channel != PilotChannel || f.Home.PasswordFile == "" || f.HealthSeconds == 0 || f.Labels["floor"] != "2" || p.Memory == 0 || p.Top == 0 || p.Source.FPS == 0 {
		t.Errorf("settings were not switched on: %+v", f)
	}
}

func TestEveryKey(t *testing.T) {
	f, err := ParseFile("agent.yaml", "/etc/covey", []byte(`
device: porch-1
data: state
log: debug
health_seconds: 30
labels: {site: lyon, floor: 2}
fleet: {enabled: true, url: "mqtts://fleet.example"}
home: {broker: "mqtts://[fe80::1]", user: covey, password_file: home.pass, ca: ca.pem, discovery: ha}
privacy: thumbnails
pictures: home
blur: [face]
local: {enabled: true, listen: ":8099", password_file: page.pass, token_file: page.token, hosts: [porch.example], ingress: 172.30.32.2}
pipelines:
  b:
    privacy: frames
    pictures: fleet
    blur: [face, plate]
    zones: {door: [[0, 0.5], [0.5, 0.5], [0.5, 1]]}
    masks: [[[0, 0], [1, 0], [1, 0.1], [0, 0.1]]]
    events: {labels: [person], confirm: 3, hold: 2s}
    source: {type: synthetic, fps: 12.5, count: 10, width: 320, height: 240, live: true}
    model: m.tflite
    labels: l.txt
    accelerator: edgetpu
    accelerator_device: usb:1
    threads: 2
    threshold: 0.4
    top: 3
    deadline: 500ms
    memory: 256MiB
    durable: each
    fit: letterbox
    crop: [0, 0.25, 1, 0.75]
    bgr: true
    weight: 2
    shapes: {x: [1, 3, 8, 8]}
  a: {source: {type: folder, path: p, loop: true, fps: 1}, accelerator: external:libvx.so}
`))
	if err != nil {
		t.Fatal(err)
	}
	if f.Device != "porch-1" || f.Data != "/etc/covey/state" || f.Log != "debug" || f.HealthSeconds != 30 || len(f.Labels) != 2 || f.Labels["floor"] != "2" ||
		f.Fleet != (FleetFile{URL: "mqtts://fleet.example:8883"}) ||
		*f.Home != (HomeFile{Broker: "mqtts://[fe80::1]:8883", User: "covey", PasswordFile: "/etc/covey/home.pass", CA: "/etc/covey/ca.pem", Discovery: "ha"}) ||
		!reflect.DeepEqual(f.Privacy, PrivacyFile{Class: "thumbnails", Pictures: "home", Blur: []string{"face"}}) ||
		!reflect.DeepEqual(*f.Local, LocalFile{Listen: ":8099", PasswordFile: "/etc/covey/page.pass", TokenFile: "/etc/covey/page.token", Hosts: []string{"porch.example"}, Ingress: netip.MustParseAddr("172.30.32.2")}) {
		t.Errorf("got %+v home %+v", f, f.Home)
	}
	want := PipelineFile{Name: "b", Source: SourceFile{Type: "synthetic", FPS: 12.5, Count: 10, Width: 320, Height: 240, Live: true},
		Model: "/etc/covey/m.tflite", Labels: "/etc/covey/l.txt", Accelerator: "edgetpu", AcceleratorDevice: "usb:1", Threads: 2, Threshold: 0.4, Top: 3,
		Deadline: 500 * time.Millisecond, Memory: 256 << 20, DurableEach: true,
		Fit: "letterbox", Crop: [4]float32{0, 0.25, 1, 0.75}, BGR: true, Weight: 2,
		Shapes:  map[string][]int{"x": {1, 3, 8, 8}},
		Privacy: PrivacyFile{Class: "frames", Pictures: "fleet", Blur: []string{"face", "plate"}},
		Zones:   []ZoneFile{{Name: "door", Corners: [][2]float32{{0, 0.5}, {0.5, 0.5}, {0.5, 1}}}},
		Masks:   [][][2]float32{{{0, 0}, {1, 0}, {1, 0.1}, {0, 0.1}}},
		Events:  EventsFile{Labels: []string{"person"}, Confirm: 3, Hold: 2 * time.Second}}
	if !reflect.DeepEqual(f.Pipelines[0], want) {
		t.Errorf("got  %+v\nwant %+v", f.Pipelines[0], want)
	}
	if len(f.Pipelines) != 2 || f.Pipelines[1].Name != "a" || f.Pipelines[1].Accelerator != "external:libvx.so" {
		t.Error("pipelines are not in the order of the file")
	}
}

func TestSources(t *testing.T) {
	for text, want := range map[string]SourceFile{
		"type: v4l2, device: usb-046d-0825, format: yuyv, width: 640, height: 480, fps: 15, controls: {brightness: 3}": {Type: "v4l2", Live: true,
			Device: "usb-046d-0825", Format: "yuyv", Width: 640, Height: 480, FPS: 15, Controls: map[string]int{"brightness": 3}},
		"type: csi, camera: 1":                                 {Type: "csi", Live: true, Camera: 1},
		`type: rtsp, url: "rtsp://10.0.0.5/ch1", user: u`:      {Type: "rtsp", Live: true, URL: "rtsp://10.0.0.5/ch1", User: "u"},
		`type: mjpeg, url: "http://10.0.0.5/", ca: x.pem`:      {Type: "mjpeg", Live: true, URL: "http://10.0.0.5/", CA: "/etc/covey/x.pem"},
		"type: exec, command: [cat, x], format: mjpeg":         {Type: "exec", Live: true, Command: []string{"cat", "x"}, Format: "mjpeg"},
		"type: wav, path: x.wav, loop: true, rate: 16000":      {Type: "wav", Path: "/etc/covey/x.wav", Loop: true, Rate: 16000},
		"type: alsa, channels: [0], window: 16000, hop: 8000":  {Type: "alsa", Live: true, Channels: []string{"0"}, Window: 16000, Hop: 8000},
		"type: iio, device: bme280, channels: [temp], rate: 2": {Type: "iio", Live: true, Device: "bme280", Channels: []string{"temp"}, Rate: 2},
		"type: serial, device: /dev/ttyUSB0, baud: 115200, format: json, quiet: 5s": {Type: "serial", Live: true,
			Device: "/dev/ttyUSB0", Baud: 115200, Format: "json", Quiet: 5 * time.Second},
		"type: gpio, device: gpiochip0, channels: [4, door], bias: pull-up, active_low: true, debounce: 5ms": {Type: "gpio", Live: true,
			Device: "gpiochip0", Channels: []string{"4", "door"}, Bias: "pull-up", Low: true, Debounce: 5 * time.Millisecond},
		"type: mqtt, topic: garden/camera": {Type: "mqtt", Live: true, Topic: "garden/camera"},
		"type: synthetic":                  {Type: "synthetic", Width: 640, Height: 480},
	} {
		f, err := ParseFile("agent.yaml", "/etc/covey", []byte("pipelines: {a: {source: {"+text+"}}}"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := f.Pipelines[0].Source; !reflect.DeepEqual(got, want) {
			t.Errorf("%s\ngot  %+v\nwant %+v", text, got, want)
		}
	}
}

func TestMistakesSayWhereAndWhat(t *testing.T) {
	pipe := func(s string) string { return "pipelines:\n  cam:\n    " + s + "\n" }
	source := func(s string) string { return pipe("source: {" + s + "}") }
	tests := []struct{ name, text, want string }{
		{"unknown key", source("type: folder, path: p, fsp: 2"), `agent.yaml:3:37: "fsp" is not a key of a source of type folder, did you mean "fps"?`},
		{"unknown key at the top", "pipeline: {}", `agent.yaml:1:1: "pipeline" is not a key of the configuration, did you mean "pipelines"?`},
		{"nothing near", "zzzzzz: 1", `"zzzzzz" is not a key of the configuration`},
		{"key of another type", source("type: folder, path: p, width: 3"), `"width" is not a key of a source of type folder`},
		{"duplicate key", "device: a\ndevice: b", `agent.yaml:2:1: "device" again: it is already in line 1`},
		{"duplicate pipeline", "pipelines:\n  a: {source: {type: synthetic}}\n  a: {source: {type: synthetic}}", `agent.yaml:3:3: "a" again: it is already in line 2`},
		{"tab", "home:\n\tbroker: x", "agent.yaml:2:1: tab in the indentation: use spaces"},
		{"not YAML", "a: [1", "agent.yaml:"},
		{"two documents", "device: a\n---\ndevice: b", "a second document"},
		{"a list", "- a", "agent.yaml:1:1: the configuration: want keys and values, got a list"},
		{"alias", "device: &a x\nlog: *a", "an alias, which is not supported"},
		{"no value", "device:", `agent.yaml:1:1: "device" has no value`},
		{"bad id", "device: Front Door", `"Front Door" is not a name: 1 to 32 of a-z, 0-9 and -, did you mean "front-door"?`},
		{"bad pipeline", "pipelines: {Cam_1: {source: {type: synthetic}}}", `did you mean "cam-1"?`},
		{"negative fps", source("type: synthetic, fps: -3"), "agent.yaml:3:36: -3 is not a number within 0.001 and 1000"},
		{"NaN", source("type: synthetic, fps: .nan"), "is not a number within"},
		{"text for a number", source("type: synthetic, fps: fast"), `want a number, got "fast"`},
		{"yes for true", source("type: folder, path: p, loop: yes"), `want true or false, got "yes"`},
		{"port", "home: {broker: 'mqtt://h:70000'}", "agent.yaml:1:16: port 70000 is not within 1 and 65535"},
		{"scheme", "home: {broker: 'tcp://h:1'}", `"tcp" is not one of mqtt, mqtts, ws, wss`},
		{"no host", "home: {broker: '192.168.1.10:1883'}", "is not the URL of a broker, as in mqtt://192.168.1.10:1883"},
		{"plain fleet link", "fleet: {url: 'mqtt://h'}", `"mqtt" is not one of mqtts, wss`},
		{"password in the URL", "home: {broker: 'mqtt://u:hunter2@h'}", "use the keys user and password_file"},
		{"home without broker", "home: {user: u}", "home needs a broker"},
		{"password without user", "home: {broker: 'mqtt://h', password_file: p}", "no user"},
		{"no source", pipe("model: m.tflite"), `agent.yaml:2:3: pipeline cam needs a source`},
		{"source without type", source("path: p"), "source needs a type: one of alsa, csi"},
		{"source of no known type", source("type: fodler"), `wav, did you mean "folder"?`},
		{"folder without path", source("type: folder"), "a source of type folder needs path"},
		{"loop and watch", source("type: folder, path: p, loop: true, watch: true"), "either looped or watched"},
		{"live without fps", source("type: synthetic, live: true"), "a live source needs fps"},
		{"password in a camera's URL", source("type: mjpeg, url: 'http://u:hunter2@h/'"), "use the keys user and password_file"},
		{"not a camera's URL", source("type: rtsp, url: 'http://h/'"), "as in rtsp://192.168.1.20/stream"},
		{"width alone", source("type: v4l2, device: /dev/video0, width: 640"), "width and height belong together"},
		{"raw without size", source("type: exec, command: [cat], format: nv12"), "raw pixels need width and height"},
		{"hop past window", source("type: alsa, window: 10, hop: 11"), "a hop of 11 samples leaves out some"},
		{"half a sample a second", source("type: alsa, rate: 0.5"), "sound has a whole number of samples a second, and not 0.5"},
		{"no command", source("type: exec, command: [], format: mjpeg"), "want a list of 1 to 64 texts"},
		{"format of another type", source("type: serial, device: d, format: mjpeg"), "is not one of csv, json"},
		{"control that is no number", source("type: v4l2, device: d, controls: {gain: high}"), "want a whole number"},
		{"crop", pipe("crop: [0, 0, 1]"), "want [x0, y0, x1, y1]"},
		{"empty crop", pipe("crop: [0.5, 0, 0.5, 1]"), "an empty part of the picture"},
		{"duration without unit", pipe("deadline: 500"), `want a duration with its unit, as in "500ms", got the number 500`},
		{"duration", pipe("deadline: 5 s"), `"5 s" is not a duration within 1ms and 1h0m0s`},
		{"size without unit", pipe("memory: 1000000"), `want a size with its unit, as in "256MB"`},
		{"size too large", pipe("memory: 99999999999GiB"), "is not a size"},
		{"size too small", pipe("memory: 1kB"), "is not a size of at least 16 MiB"},
		{"threshold", pipe("threshold: 40"), "40 is not a number within 1e-06 and 1"},
		{"accelerator", pipe("accelerator: xnpack"), `did you mean "xnnpack"?`},
		{"device without a number", pipe("accelerator_device: usb"), `3:25: "usb" is no device as covey-agent doctor lists them: usb:0`},
		{"device of nothing", pipe("accelerator_device: tpu:0"), `"tpu:0" is no device`},
		{"device with more to it", pipe("accelerator_device: 'usb:1 '"), `"usb:1 " is no device`},
		{"device as a number", pipe("accelerator_device: 1"), "want text, got the number 1"},
		{"device of a CPU", pipe("accelerator_device: usb:0\n    accelerator: cpu"), "cpu has no device usb:0"},
		{"GPU of an Edge TPU", pipe("accelerator: edgetpu\n    accelerator_device: gpu:0"), "edgetpu has no device gpu:0"},
		{"stick of a GPU", pipe("accelerator: tensorrt\n    accelerator_device: usb:0"), "tensorrt has no device usb:0"},
		{"label with a comma", "labels: {site: 'a,b'}", "1:9: labels.site: \"a,b\" has a comma"},
		{"label without an id", "labels: {Site: a}", `"Site" is not an id`},
		{"empty label", "labels: {site: ''}", "labels.site: missing"},
		{"label with a list", "labels: {site: [a]}", "want text"},
		{"health", "health_seconds: 1", "1 is not a whole number within 5 and 86400"},
		{"no model can come", "fleet: {enabled: false}\n" + source("type: synthetic"), "pipeline cam has no model"},
		{"privacy", "privacy: none", `"none" is not one of numbers, thumbnails, frames`},
		{"audience", pipe("pictures: house"), `"house" is not one of page, home, fleet`},
		{"zone of two corners", pipe("zones: {door: [[0, 0], [1, 1]]}"), "want 3 to 64 corners"},
		{"corner outside", pipe("zones: {door: [[0, 0], [1, 1], [1.1, 0]]}"), "1.1 is not a number within 0 and 1"},
		{"corner of one number", pipe("masks: [[[0, 0], [1], [1, 1]]]"), "want a corner [x, y]"},
		{"zone with a topic's name", pipe("zones: {threshold: [[0, 0], [1, 0], [1, 1]]}"), "no zone can be called threshold"},
		{"zone that is all", pipe("zones: {all: [[0, 0], [1, 0], [1, 1]]}"), "no zone can be called all"},
		{"zone without a name", pipe("zones: {Front Door: [[0, 0], [1, 0], [1, 1]]}"), `did you mean "front-door"?`},
		{"hold", pipe("events: {hold: 2h}"), "is not a duration within 100ms and 1h0m0s"},
		{"page for all without a password", "local: {listen: ':8099'}", `add "password_file: page.password", or listen on 127.0.0.1:8099`},
		{"ingress", "local: {ingress: homeassistant}", "is not an address, as in 172.30.32.2"},
		{"page on a host", "local: {listen: 'example.org:80'}", "is not an address and a port"},
		{"discovery", "home: {broker: 'mqtt://h', discovery: 'a/b'}", "is not one level of a topic"},
		{"control character", `data: "a\0b"`, "text holds a control character"},
		{"too long", "# " + strings.Repeat("x", maxConfig), "longer than 256 KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseFile("agent.yaml", "/etc/covey", []byte(tt.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if got := err.Error(); !strings.Contains(got, tt.want) || !strings.HasPrefix(got, "E_CONFIG: agent.yaml:") {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error shows a password")
			}
		})
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	_, err := ParseFile("agent.yaml", "/", []byte("devic: a\nlog: loud\nhealth_seconds: x\n"))
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) || len(all.Unwrap()) != 3 {
		t.Errorf("got %v", err)
	}
}

func TestPasswordFile(t *testing.T) {
	dir := t.TempDir()
	config, secret := filepath.Join(dir, "agent.yaml"), filepath.Join(dir, "home.pass")
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(config, "home: {broker: 'mqtt://h', user: u, password_file: home.pass}\n", 0o644)
	if _, err := ReadFile(config); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("absent: got %v", err)
	}
	write(secret, "hunter2\n", 0o644)
	if _, err := ReadFile(config); err == nil || !strings.Contains(err.Error(), "agent.yaml:1:52: "+secret+" can be read by everyone: chmod 600 "+secret) {
		t.Errorf("world-readable: got %v", err)
	}
	write(secret, "hunter2\n", 0o600)
	f, err := ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if pw, err := f.Home.Password(); pw != "hunter2" || err != nil {
		t.Errorf("got %q, %v", pw, err)
	}
	if _, err := ReadFile(filepath.Join(dir, "absent.yaml")); hal.CodeOf(err) != hal.CodeConfig {
		t.Errorf("no configuration: got %v", err)
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte("home: {broker: 'mqtt://h'}\npipelines: {a: {source: {type: synthetic, fps: 1}}}"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("? {}: {}"))
	f.Add([]byte("home:\n\tx: !!binary aGk="))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := ParseFile("f", "/etc/covey", b)
		if (file == nil) == (err == nil) {
			t.Fatal("want a file or an error")
		}
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if len(line) > 1<<10 {
					t.Fatalf("a line of %d bytes", len(line))
				}
			}
		}
	})
}

// What may be shown is the board's own word; its fleet can only forbid.
func TestPrivacy(t *testing.T) {
	board := func(text string) *File {
		t.Helper()
		f, err := ParseFile("agent.yaml", "/", []byte(text+"\npipelines: {a: {source: {type: synthetic}}, b: {source: {type: synthetic}, privacy: frames, pictures: fleet}}"))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, tt := range []struct{ board, fleet, a, b string }{
		{"", "", "numbers page", "frames fleet"},
		{"{privacy: thumbnails, pictures: home}", "", "thumbnails home", "frames fleet"},
		{"", "privacy: frames\npictures: fleet", "numbers page", "frames fleet"},
		{"privacy: frames", "privacy: thumbnails", "thumbnails page", "thumbnails fleet"},
		{"privacy: frames", "privacy: numbers", "numbers page", "numbers fleet"},
		{"privacy: frames", "pictures: page\nblur: [face]", "frames page face", "frames page face"},
	} {
		f := board(strings.NewReplacer("{", "", "}", "", ", ", "\n").Replace(tt.board))
		if tt.fleet != "" {
			var err error
			if f, err = f.with("fleet 1", []byte(tt.fleet)); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []string{tt.a, tt.b} {
			p := f.policy(f.Pipelines[i])
			got := strings.TrimSpace(fmt.Sprint(cmp.Or(p.Class, "numbers"), " ", p.To, " ", strings.Join(p.Blur, " ")))
			if got != want {
				t.Errorf("%+v: pipeline %s: %s, want %s", tt, f.Pipelines[i].Name, got, want)
			}
		}
	}
	if _, err := board("").with("fleet 1", []byte("pipelines: {a: {privacy: frames}}")); err == nil {
		t.Error("a fleet may loosen the privacy of a pipeline")
	}
	if _, err := board("").with("fleet 1", []byte("local: {listen: '127.0.0.1:1'}")); err == nil {
		t.Error("a fleet may open a page")
	}
}
