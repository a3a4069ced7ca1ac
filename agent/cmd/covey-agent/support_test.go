package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/agent"
)

// planted are secrets, each where one may be.
var planted = map[string]string{
	"url user":        "plantuser01",
	"url path":        "plantpath02",
	"camera password": "plant\"camera: 03",
	"home password":   "planthome04",
	"comment":         "plantcomment05",
	"command":         "plantcommand06",
	"environment":     "plantenviron07",
	"token":           "covey-join-eyJ1cmwiplanttoken08",
	"logged url":      "plantlogged09",
	"logged password": "plantlogged10",
	"logged query":    "plantquery11",
	"bearer":          "plantbearer12",
	"outbox":          "plantoutbox13",
	"picture":         "plantpicture14",
	"page token":      "plantpage15",
	"key":             "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0plantkey16aaaaaaaaaaaaaaa",
	"backup":          "plantbackup17",
	"misspelt":        "plantmisspelt18",
	"free text":       "plantsite19",
	"home user":       "planthomeuser20",
}

// plant makes a board that has them all.
func plant(t *testing.T, more string) (h *house, log string) {
	t.Helper()
	program, _ := self(t)
	h = &house{t: t, dir: t.TempDir(), program: program}
	for _, dir := range []string{"etc", "data", "data/identity", "bin"} {
		if err := os.Mkdir(h.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := func(name string) string { return planted[name] }
	h.put("etc/agent.yaml", `# `+p("comment")+`
device: porch
labels: {site: `+p("free text")+`}
home: {broker: "mqtt://192.168.1.10", user: `+p("home user")+`, password_file: home.password}
local: {listen: "127.0.0.1:8099", token_file: elsewhere/page.token}
pipelines:
  yard: # `+p("comment")+`
    source: {type: rtsp, url: "rtsp://192.168.1.20/`+p("url path")+`", user: `+p("url user")+`, password_file: camera.password, fps: 5}
  clip:
    source: {type: exec, command: [ffmpeg, -i, `+p("command")+`], format: mjpeg}
`+more)
	if err := os.Mkdir(h.path("etc/elsewhere"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.put("etc/elsewhere/page.token", p("page token")+"\n")
	h.put("etc/camera.password", p("camera password")+"\n")
	h.put("etc/home.password", p("home password"))
	h.put("etc/agent.yaml.1", "# "+p("backup"))
	h.put("data/identity/identity.json", `{"key":"-----BEGIN PRIVATE KEY-----\n`+p("key")+`\n-----END PRIVATE KEY-----\n"}`)
	h.put("data/outbox.db", p("outbox"))
	h.put("data/last.jpg", p("picture"))
	log = `2026-11-25T13:00:00+0000 porch covey-agent[1]: {"message":"camera ` + quoteInside(p("camera password")) + ` said no"}
with ` + p("home password") + ` and ` + p("environment") + ` and ` + p("command") + ` and ` + p("url path") + ` by ` + p("url user") + ` of ` + p("home user") + `
open rtsp://admin:` + p("logged url") + `@192.168.1.20/x and http://h/v?pwd=` + p("logged query") + ` {"password":"` + p("logged password") + `"} key ` + p("key") + `
joined with ` + p("token") + ` Authorization: Bearer ` + p("bearer") + ` page ` + p("page token") + `
the last line is shown
`
	h.put("journal", log)
	if err := os.WriteFile(h.path("bin/journalctl"), []byte("#!/bin/sh\ncat "+h.path("journal")+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return h, log
}

func quoteInside(s string) string { q := quote(s); return q[1 : len(q)-1] }

// support runs the command, and returns what is in the archive.
func (h *house) support() (out, unpacked string) {
	h.t.Helper()
	to := h.path("a.tar.gz")
	cmd := h.command("support", "-o", to)
	cmd.Env = append(cmd.Env, "PATH="+h.path("bin")+":"+os.Getenv("PATH"), "COVEY_API_TOKEN="+planted["environment"])
	b, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v: %s", err, b)
	}
	if fi, err := os.Stat(to); err != nil || fi.Mode().Perm() != 0o600 {
		h.t.Errorf("%v, %v", fi.Mode(), err)
	}
	text, err := exec.Command("tar", "-xzOf", to).Output()
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b), string(text)
}

// No secret is in the archive, wherever on the board it is; what helps is.
func TestSupport(t *testing.T) {
	t.Parallel()
	h, _ := plant(t, "")
	out, text := h.support()
	for where, secret := range planted {
		for _, form := range []string{secret, quoteInside(secret)} {
			if strings.Contains(text+out, form) {
				t.Errorf("the secret of %s is in it", where)
			}
		}
	}
	for _, want := range []string{"covey-agent dev", "rtsp://192.168.1.20/…", "password_file: camera.password", "device: porch", `"diagnoses"`, `"joined": true`,
		"the last line is shown", "type: exec", "site: (not shown)", "fps: 5"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in it", want)
		}
	}
	for _, name := range []string{"about.txt", "agent.yaml", "doctor.json", "state.json", "journal.txt"} {
		if !strings.Contains(out, name) {
			t.Errorf("%s is not listed", name)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	if out, err := h.run("", "support", "-o", h.path("a.tar.gz")); err == nil || !strings.Contains(out, "name another with -o") {
		t.Errorf("over another: %v: %s", err, out)
	}
}

// A configuration with mistakes, or that is none, shows no more.
func TestSupportOfABrokenConfiguration(t *testing.T) {
	t.Parallel()
	for _, more := range []string{
		"home_password: " + planted["misspelt"] + "\n",
		"hom: {broker: 'mqtt://u:" + planted["misspelt"] + "@h:x'}\n",
		"}: " + planted["misspelt"] + "\n",
	} {
		h, _ := plant(t, more)
		_, text := h.support()
		for where, secret := range planted {
			switch where {
			case "command", "url path", "url user", "home user": // of a file that cannot be read nothing is known
				continue
			}
			if strings.Contains(text, secret) {
				t.Errorf("%s: the secret of %s is in it:\n%s", more, where, text)
			}
		}
	}
}

// Without the veil each of them would have been seen: the test above would be red.
func TestSupportWithoutAVeil(t *testing.T) {
	h, log := plant(t, "")
	v := newVeil(nil)
	for _, where := range []string{"home password", "environment", "command", "url path", "page token"} {
		if !strings.Contains(v.over(log), planted[where]) {
			t.Errorf("%s is hidden without being known", where)
		}
	}
	known := newVeil([]string{"other"})
	for _, where := range []string{"token", "logged url", "logged password", "logged query", "bearer"} {
		if !strings.Contains(known.overKnown(log), planted[where]) || strings.Contains(known.over(log), planted[where]) {
			t.Errorf("%s is not hidden by its looks alone", where)
		}
	}
	raw := h.read("etc/agent.yaml")
	shown, secrets := agent.Redacted([]byte(raw))
	for _, where := range []string{"comment", "url user", "url path", "command", "free text", "home user"} {
		if !strings.Contains(raw, planted[where]) || bytes.Contains(shown, []byte(planted[where])) {
			t.Errorf("%s in the configuration:\n%s", where, shown)
		}
	}
	all := strings.Join(append(secrets, secretsOf(h.path("etc/agent.yaml"), []byte(raw), h.path("data"), []string{"A_TOKEN=" + planted["environment"]})...), "\n")
	for _, where := range []string{"camera password", "home password", "page token", "key", "environment", "url user", "url path"} {
		if !strings.Contains(all, planted[where]) {
			t.Errorf("%s is not known", where)
		}
	}
	if _, err := os.Stat(filepath.Join(h.dir, "a.tar.gz")); err == nil {
		t.Error("an archive was made")
	}
}
