package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/hal"
)

// supervisor answers as Home Assistant's does. It asks for the token of the add-on.
func supervisor(t *testing.T, status int, answer string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/services/mqtt" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Authorization") != "Bearer 1f2e" {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"result":"error","message":"Forbidden"}`)
			return
		}
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	return s
}

const mosquitto = `{"result":"ok","data":{"addon":"core_mosquitto","host":"core-mosquitto","port":1883,"ssl":false,"protocol":"3.1.1","username":"addons","password":"gu\"ess: me"}}`

// addonIn is an add-on with settings, in a folder of its own.
func addonIn(t *testing.T, options, supervisor string) addon {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"options.json": options, "config/birds.tflite": "", "config/birds.txt": "robin\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return addon{options: dir + "/options.json", data: dir, files: dir + "/config", supervisor: supervisor, token: "1f2e"}
}

// What the add-on writes is a configuration that the agent takes, with the house's broker.
func TestAddon(t *testing.T) {
	for name, c := range map[string]struct{ options, answer, broker, source string }{
		"a camera":       {`{"device":"porch","camera":"/dev/video0","log":"info"}`, mosquitto, "mqtt://core-mosquitto:1883", "v4l2"},
		"a model":        {`{"device":"porch","camera":"/dev/v4l/by-id/usb-046d","model":"birds.tflite","labels":"birds.txt"}`, mosquitto, "mqtt://core-mosquitto:1883", "v4l2"},
		"RTSP":           {`{"device":"porch","camera_url":"rtsp://10.0.0.9:554/one","camera_user":"me","camera_password":"x: \"y"}`, mosquitto, "mqtt://core-mosquitto:1883", "rtsp"},
		"HTTP":           {`{"device":"porch","camera_url":"http://10.0.0.9/video"}`, mosquitto, "mqtt://core-mosquitto:1883", "mjpeg"},
		"TLS":            {`{"device":"porch","camera":"/dev/video0"}`, strings.Replace(mosquitto, `"ssl":false`, `"ssl":true`, 1), "mqtts://core-mosquitto:1883", "v4l2"},
		"port as text":   {`{"device":"porch","camera":"/dev/video0"}`, strings.Replace(mosquitto, "1883", `"1884"`, 1), "mqtt://core-mosquitto:1884", "v4l2"},
		"no password":    {`{"device":"porch","camera":"/dev/video0"}`, `{"result":"ok","data":{"host":"fd00::1","port":1883}}`, "mqtt://[fd00::1]:1883", "v4l2"},
		"a later Home":   {`{"device":"porch","camera":"/dev/video0"}`, strings.Replace(mosquitto, `"ssl"`, `"websocket":9001,"ssl"`, 1), "mqtt://core-mosquitto:1883", "v4l2"},
		"settings unset": {`{"device":"porch","camera":"/dev/video0","camera_url":null,"model":""}`, mosquitto, "mqtt://core-mosquitto:1883", "v4l2"},
	} {
		t.Run(name, func(t *testing.T) {
			a := addonIn(t, c.options, supervisor(t, http.StatusOK, c.answer).URL)
			path, err := a.configure(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			file, err := agent.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if file.Home.Broker != c.broker || len(file.Pipelines) != 1 || file.Pipelines[0].Source.Type != c.source || file.Device != "porch" || file.Data != a.data+"/covey" {
				t.Errorf("%+v, %+v, %+v", file, file.Home, file.Pipelines)
			}
			if password, err := file.Home.Password(); err != nil || file.Home.User != "" && password != `gu"ess: me` {
				t.Errorf("password %q, %v", password, err)
			}
			if strings.Contains(c.options, `"model":"b`) != (file.Pipelines[0].Model == a.files+"/birds.tflite") {
				t.Errorf("model %s", file.Pipelines[0].Model)
			}
			for _, name := range []string{"agent.yaml", brokerPassword, cameraPassword} {
				if info, err := os.Stat(filepath.Join(a.data, name)); err == nil && info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v", name, info.Mode())
				}
			}
			text, err := os.ReadFile(path)
			if err != nil || strings.Contains(string(text), "ess: me") || strings.Contains(string(text), "x: ") {
				t.Errorf("a password stands in %s (%v)", text, err)
			}
		})
	}
}

// A password that is no longer there is no longer on the disk.
func TestAddonForgets(t *testing.T) {
	a := addonIn(t, `{"device":"porch","camera":"/dev/video0"}`, supervisor(t, http.StatusOK, mosquitto).URL)
	if _, err := a.configure(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.supervisor = supervisor(t, http.StatusOK, `{"result":"ok","data":{"host":"core-mosquitto","port":1883}}`).URL
	if _, err := a.configure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(a.data, brokerPassword)); err == nil {
		t.Error("the old password is still there")
	}
}

// What is wrong is said in words that the owner can act on, and nothing is written.
func TestAddonRefuses(t *testing.T) {
	const camera = `{"device":"porch","camera":"/dev/video0"}`
	for name, c := range map[string]struct {
		options string
		status  int
		answer  string
		says    string
	}{
		"no broker":          {camera, 400, `{"result":"error","message":"Service not enabled"}`, "install the Mosquitto broker"},
		"not allowed":        {camera, 403, `{"result":"error","message":"No access to mqtt service!"}`, "does not let this add-on"},
		"an old token":       {camera, 401, "", "does not let this add-on"},
		"broken supervisor":  {camera, 502, "<html>", "not understood: 502"},
		"a page":             {camera, 200, "<html>", "not understood"},
		"an answer in vain":  {camera, 200, `{"result":"ok","data":{}}`, `host "", port 0`},
		"elsewhere":          {camera, 302, "", "not understood: 302"},
		"a host with a path": {camera, 200, `{"result":"ok","data":{"host":"a/b","port":1}}`, `host "a/b"`},
		"a large port":       {camera, 200, `{"result":"ok","data":{"host":"a","port":70000}}`, "not understood"},
		"a second line":      {camera, 200, `{"result":"ok","data":{"host":"a","port":1,"username":"u","password":"a\nb"}}`, "line end"},
		"endless":            {camera, 200, strings.Repeat(" ", maxAnswer+1), "more than"},
		"no camera":          {`{"device":"porch"}`, 200, mosquitto, "choose a camera"},
		"two cameras":        {`{"camera":"/dev/video0","camera_url":"http://a/"}`, 200, mosquitto, "not both"},
		"a file":             {`{"camera":"/etc/passwd"}`, 200, mosquitto, "below /dev"},
		"out of its folder":  {`{"camera":"/dev/video0","model":"../../etc/passwd"}`, 200, mosquitto, "names of files"},
		"an unknown setting": {`{"camera":"/dev/video0","colour":"red"}`, 200, mosquitto, "not as this version has them"},
		"two settings":       {camera + "{}", 200, mosquitto, "behind their end"},
		"settings too long":  {strings.Repeat(" ", maxOptions) + camera, 200, mosquitto, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			a := addonIn(t, c.options, supervisor(t, c.status, c.answer).URL)
			_, err := a.configure(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %q", err, c.says)
			}
			if strings.Contains(name, "broker") && hal.CodeOf(err) != hal.CodeConfig {
				t.Errorf("code %s", hal.CodeOf(err))
			}
			if _, err := os.Stat(a.data + "/agent.yaml"); err == nil {
				t.Error("a configuration was written")
			}
		})
	}
	a := addonIn(t, camera, "http://127.0.0.1:1")
	if _, err := a.configure(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("no supervisor: %v", err)
	}
	a.token = ""
	if _, err := a.configure(t.Context()); err == nil || !strings.Contains(err.Error(), "SUPERVISOR_TOKEN") {
		t.Errorf("no token: %v", err)
	}
}

// The settings that the add-on shows are those that it reads, and as they are at first
// it lacks a camera and nothing else.
func TestAddonSettings(t *testing.T) {
	text, err := os.ReadFile("../../../firmware/homeassistant-addon/covey/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct{ Options, Schema map[string]any }
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	var read []string
	for f := range reflect.TypeFor[addonOptions]().Fields() {
		read = append(read, f.Tag.Get("json"))
	}
	slices.Sort(read)
	if shown := slices.Sorted(maps.Keys(config.Schema)); !slices.Equal(read, shown) {
		t.Errorf("shown are %v, read are %v", shown, read)
	}
	options, err := json.Marshal(config.Options)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseOptions(options); err == nil || !strings.Contains(err.Error(), "choose a camera") {
		t.Errorf("as they are at first: %v", err)
	}
}

func FuzzAddonOptions(f *testing.F) {
	f.Add([]byte(`{"device":"porch","camera_url":"rtsp://10.0.0.9/one","camera_user":"me","camera_password":"x","model":"a.tflite"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := parseOptions(text)
		if err != nil {
			return
		}
		config, _ := o.config(mqttService{Host: "h", Port: 1, Password: "p", Username: "u"}, "/data", "/config")
		if _, err := json.Marshal(config); err != nil {
			t.Error(err)
		}
		if o.Model != "" && !strings.HasPrefix(filepath.Join("/config", o.Model), "/config") {
			t.Errorf("model %q", o.Model)
		}
	})
}

func FuzzAddonService(f *testing.F) {
	f.Add(200, []byte(mosquitto))
	f.Fuzz(func(t *testing.T, status int, text []byte) {
		if m, err := parseService(status, text); err == nil && (m.Host == "" || m.Port < 1 || m.Port > 65535 || strings.ContainsAny(m.Host, "/@ ")) {
			t.Errorf("%+v", m)
		}
	})
}
