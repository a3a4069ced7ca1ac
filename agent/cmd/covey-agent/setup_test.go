package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/fleet/link/linktest"
	"github.com/covey-edge/covey/fleet/link/mqtt"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// A house is a board's folder, a model that runs here, and a broker that lets one user in.
type house struct {
	t       *testing.T
	dir     string
	program string
	broker  string // host:port
	model   string
	labels  string
}

const brokerWord = "gu\"ess: me"

// housed makes one, or skips where no model can run.
func housed(t *testing.T) *house {
	t.Helper()
	program, runner := self(t)
	h := &house{t: t, dir: t.TempDir(), program: program, model: os.Getenv("COVEY_MODELS") + "/ssd/detect.tflite", labels: os.Getenv("COVEY_MODELS") + "/ssd/labelmap.txt"}
	if !exists(h.model) || !runner {
		t.Skip("no model or no runner here: run scripts/setup, then `. scripts/env`")
	}
	users := filepath.Join(h.dir, "users")
	if out, err := exec.Command("mosquitto_passwd", "-b", "-c", users, "covey", brokerWord).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.broker = linktest.Mosquitto(t, "allow_anonymous false", "password_file "+users)
	h.put("broker.txt", brokerWord+"\n")
	h.put("page.txt", "page password\n")
	if err := os.Mkdir(h.path("pictures"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile(t, os.Getenv("COVEY_MODELS")+"/label_image/peacock.png", h.path("pictures/peacock.png"))
	return h
}

func (h *house) path(name string) string { return filepath.Join(h.dir, name) }

func (h *house) put(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// command is the program with arguments, in the house.
func (h *house) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.program, append(args, "--config", h.path("etc/agent.yaml"))...)
	cmd.Env = append(os.Environ(), "COVEY_TEST_AGENT=1", "STATE_DIRECTORY="+h.path("data"))
	cmd.Dir = h.dir
	return cmd
}

func (h *house) run(in string, args ...string) (string, error) {
	cmd := h.command(args...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// files is what lies in the folder of the configuration, with modes.
func (h *house) files() string {
	h.t.Helper()
	var list []string
	all, err := os.ReadDir(h.path("etc"))
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing"
	}
	for _, e := range all {
		fi, err := e.Info()
		if err != nil {
			h.t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %o", e.Name(), fi.Mode()))
	}
	return strings.Join(list, ", ")
}

func (h *house) read(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// allFlags answer everything.
func (h *house) allFlags() []string {
	return []string{"setup", "--yes", "--device", "porch", "--camera", "pictures", "--model", h.model, "--labels", h.labels, "--look-for", "Bird,person",
		"--broker", "covey@" + h.broker, "--broker-password-file", "broker.txt", "--pictures", "house", "--password-file", "page.txt"}
}

// With flags alone a board is set up: what is written is private, and right when it is
// written again, and an agent that runs with it sees and says what the camera shows.
func TestSetupByFlags(t *testing.T) {
	t.Parallel()
	h := housed(t)
	if out, err := h.run("", append(h.allFlags(), "--dry-run")...); err != nil || !strings.Contains(out, "would be done") || h.files() != "nothing" {
		t.Fatalf("dry run: %v, %s:\n%s", err, h.files(), out)
	}
	out, err := h.run("", h.allFlags()...)
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, want := range []string{"ok: 133 × 200", "bird 0.", "to it and back … ok", "covey-agent run --config", "mosquitto_sub -h 127.0.0.1 -u covey"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if strings.Contains(out, brokerWord) || strings.Contains(out, "page password") {
		t.Error("it shows a password")
	}
	for line := range strings.Lines(out) {
		if len([]rune(line)) > 80 && !strings.Contains(line, h.dir) && !strings.Contains(line, h.model) {
			t.Errorf("longer than 80 columns: %s", line)
		}
	}
	const files = "agent.yaml 640, home.password 600, page.password 600"
	if h.files() != files {
		t.Errorf("files are %s", h.files())
	}
	if got := h.read("etc/home.password") + h.read("etc/page.password"); got != brokerWord+"\npage password\n" {
		t.Errorf("passwords %q", got)
	}
	file, err := agent.ReadFile(h.path("etc/agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p := file.Pipelines[0]
	if file.Device != "porch" || file.Home.Broker != "mqtt://"+h.broker || file.Home.User != "covey" || p.Model != h.model || p.Source.Path != h.path("pictures") ||
		!slices.Equal(p.Events.Labels, []string{"bird", "person"}) || file.Privacy.Class != "frames" || file.Privacy.Pictures != "home" || file.Local == nil {
		t.Errorf("configured %+v, %+v", file, p)
	}

	before := h.read("etc/agent.yaml")
	if out, err := h.run("", h.allFlags()...); err != nil || !strings.Contains(out, "is like that already") || h.files() != files || h.read("etc/agent.yaml") != before {
		t.Errorf("a second time: %v, %s:\n%s", err, h.files(), out)
	}
	if out, err := h.run("", append(h.allFlags(), "--pictures", "nowhere")...); err != nil || h.read("etc/agent.yaml.1") != before || !strings.Contains(h.read("etc/agent.yaml"), "privacy: numbers") {
		t.Errorf("another answer: %v, %s:\n%s", err, h.files(), out)
	}
	h.sees("porch", "bird")
}

// sees runs the agent until the house hears a result with a label.
func (h *house) sees(device wire.DeviceID, label string) {
	h.t.Helper()
	cmd := h.command("run")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	cmd.Stderr = &log
	heard := make(chan struct{}, 1)
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	link, err := mqtt.New(mqtt.Config{URL: "mqtt://" + h.broker, ClientID: "test", Clean: true, Username: "covey", Password: brokerWord, Logger: zerolog.Nop()})
	if err != nil {
		h.t.Fatal(err)
	}
	up, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- link.Run(ctx, wire.Spec{
			Subscribe: []wire.Subscription{{Filter: houseTopics(device).Result("camera"), QoS: 1}},
			Up:        func() { offer(up, struct{}{}) },
			Receive: func(m wire.Message) error {
				if strings.Contains(string(m.Payload), label) {
					offer(heard, struct{}{})
				}
				return nil
			},
		})
	}()
	<-up
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	select {
	case <-heard:
	case <-ctx.Done():
		h.t.Error("nothing was heard of it")
	}
	err = errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	cancel()
	if err := errors.Join(err, <-ended); err != nil || h.t.Failed() {
		h.t.Fatalf("%v\n%s", err, &log)
	}
}

// Whoever is asked is asked again until the answer is one. What failed can be answered
// otherwise, and gone on with.
func TestSetupAsks(t *testing.T) {
	t.Parallel()
	h := housed(t)
	answers := []string{
		"9", "nowhere at all", "rtsp://", h.path("etc"), "pictures", // camera
		"", "absent.tflite", h.path("page.txt"), "back", h.model, h.labels, "unicorn", "bird", // model, labels, what counts
		"ftp://x", "127.0.0.1:99999", "covey@" + h.broker, "wrong", "what", "back", "covey@" + h.broker, brokerWord, // broker
		"covey-join-xyz", "join", "none",
		"perhaps", "page",
		"short", "long enough", "not the same", "long enough", "long enough",
		"maybe", "7", "5", "nowhere", "5", "house", "6", "", "yes",
	}
	out, err := h.run(strings.Join(answers, "\n")+"\n", "setup", "--device", "porch")
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, want := range []string{
		"no number 9 in the list", `"nowhere at all" is no number`, "not the URL of a camera", "is no number of the list",
		"a file is needed", "there is no file", "The model does not run", "numbers for what it sees, and no names", "knows no \"unicorn\"",
		"no address of a broker", "99999", "give the password that the broker has for covey", "Answer with try or back or continue",
		"token is damaged", "not a join token", "answer with nowhere, page or house", "At least 8", "two different ones",
		"Answer with yes, no, or a number from 1 to 6", "shown this once",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	file, err := agent.ReadFile(h.path("etc/agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if p := file.Pipelines[0]; p.Labels != h.labels || !slices.Equal(p.Events.Labels, []string{"bird"}) || file.Privacy.Pictures != "home" || file.Home.User != "covey" {
		t.Errorf("%+v", file)
	}
	if h.read("etc/home.password") != brokerWord+"\n" {
		t.Error("not the right password for the broker")
	}

	// Once more, Enter all the way: nothing has changed.
	before := h.read("etc/agent.yaml") + h.read("etc/page.password")
	out, err = h.run(strings.Repeat("\n", 8)+"yes\n", "setup")
	if after := h.read("etc/agent.yaml") + h.read("etc/page.password"); err != nil || after != before || strings.Contains(h.files(), "agent.yaml.1") {
		t.Errorf("Enter all the way: %v, %s:\n%s\n%s", err, h.files(), after, out)
	}
}

// What does not work ends a setup that may not ask, before anything is changed.
func TestSetupRefuses(t *testing.T) {
	t.Parallel()
	h := housed(t)
	base := []string{"setup", "--yes", "--device", "porch", "--camera", "test", "--model", h.model}
	token := wire.JoinToken{URL: "https://127.0.0.1:9", CA: strings.Repeat("a", 64), Secret: "s"}.Encode()
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--camera", "/dev/video99"}, "--camera: there is no /dev/video99"},
		{[]string{"--camera", h.dir}, "has no pictures"},
		{[]string{"--model", h.path("page.txt")}, "The model does not run"},
		{[]string{"--model", "none"}, "without a model of its own"},
		{[]string{"--labels", h.labels, "--look-for", "unicorn"}, "--look-for: the model knows no"},
		{[]string{"--broker", h.broker}, "give a user that the broker knows"},
		{[]string{"--broker", "127.0.0.1:9"}, "see that it runs there"},
		{[]string{"--pictures", "house"}, "--pictures: the house has no broker"},
		{[]string{"--pictures", "all"}, "--pictures: "},
		{[]string{"--pictures", "page", "--password-file", "absent"}, "--password-file: "},
		{[]string{"--join", "x"}, "--join: not a join token"},
		{[]string{"--join", token}, "nothing else was changed"},
		{[]string{"--device", "Porch!"}, "--device: "},
	} {
		if out, err := h.run("", append(slices.Clone(base), c.flags...)...); err == nil || !strings.Contains(out, c.want) || h.files() != "nothing" {
			t.Errorf("%q: %v, %s; want %q:\n%s", c.flags, err, h.files(), c.want, out)
		}
	}
	if out, err := h.run("test\n", "setup", "--device", "porch"); err == nil || !strings.Contains(out, "nothing was changed") || h.files() != "nothing" {
		t.Errorf("the input ends: %v:\n%s", err, out)
	}
}

// On a terminal a password is not shown. Ctrl-C, even while one is typed, changes nothing
// and leaves the terminal as it was.
func TestSetupOnATerminal(t *testing.T) {
	h := housed(t)
	cmd := h.command("setup", "--device", "porch", "--camera", "test", "--model", h.model, "--labels", h.labels, "--look-for", "all", "--broker", "none", "--join", "none", "--pictures", "page")
	master, slave := terminal(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	await := func(text string) {
		t.Helper()
		b := make([]byte, 4096)
		if err := master.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for !strings.Contains(shown.String(), text) {
			n, err := master.Read(b)
			if err != nil {
				t.Fatalf("waiting for %q: %v after\n%s", text, err, shown.String())
			}
			shown.Write(b[:n])
		}
	}
	await("one is made up): ")
	shows(t, slave, false)
	for _, text := range []string{"a secret word\n", "a secr"} {
		if _, err := io.WriteString(master, text); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(text, "\n") {
			await("Once more: ")
		}
	}
	if _, err := master.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	await("nothing was changed")
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	if strings.Contains(shown.String(), "secr") || h.files() != "nothing" || exists(h.path("data")) {
		t.Errorf("a password was shown, or something changed: %s\n%s", h.files(), shown.String())
	}
	shows(t, slave, true)
}

// terminal is a pseudo terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no pseudo terminals here: ", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	if slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}

// shows waits until a terminal shows what is typed, or does not.
func shows(t *testing.T, f *os.File, want bool) {
	t.Helper()
	for range 1000 {
		state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if state.Lflag&unix.ECHO != 0 == want {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("the terminal shows what is typed: not %t", want)
}

// With a service there are the service's needs of these devices, and it is started; one
// that does not start is said, with where to look.
func TestSetupStarts(t *testing.T) {
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	program := filepath.Join(dir, "systemctl")
	script := func(more string) {
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >>"+calls+"\n[ $1 = show ] && echo 1 pipeline, 4.9 fps\n"+more+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("exit 0")
	p := place{config: dir + "/etc/agent.yaml", data: dir + "/data", dropIn: dir + "/covey-agent.service.d/config.conf", systemd: program}
	var out bytes.Buffer
	s := &setup{dialog: newDialog(t.Context(), strings.NewReader(""), &out), place: p, given: map[string]bool{}}
	c, err := parseCamera("v4l2:usb-046d:0825", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.a = answers{device: "porch", data: p.data, camera: c, model: dir + "/m.tflite", pictures: nowhere}
	if err := s.apply(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	b, err := os.ReadFile(p.dropIn)
	if err != nil || !strings.Contains(string(b), "DeviceAllow=char-video4linux rw") {
		t.Errorf("%v: %s", err, b)
	}
	b, err = os.ReadFile(calls)
	want := "daemon-reload\nenable covey-agent\nrestart covey-agent\nshow --property=StatusText --value covey-agent\n"
	if err != nil || string(b) != want {
		t.Errorf("%v: systemctl was called %q", err, b)
	}
	if !strings.Contains(out.String(), "4.9 fps") || !strings.Contains(out.String(), "systemctl status covey-agent") {
		t.Errorf("it says %s", &out)
	}
	script("[ $1 != restart ] || { echo failed because of that >&2; exit 1; }")
	if err := s.apply(t.Context()); err == nil || !strings.Contains(err.Error(), "failed because of that\nfix: journalctl -u covey-agent") {
		t.Errorf("got %v", err)
	}
}

// With a token the board joins a real controller, whose model it then waits for; once more
// without one, it stays there.
func TestSetupJoins(t *testing.T) {
	t.Parallel()
	program, _ := self(t)
	bin, err := filepath.Abs("../../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if !exists(bin+"/covey-fleet") || !exists(bin+"/covey") {
		t.Skip("no controller here: run scripts/setup")
	}
	h := &house{t: t, dir: t.TempDir(), program: program}
	fleet := h.path("fleet")
	serve := exec.Command(bin+"/covey-fleet", "serve", "--data", fleet, "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--host", "127.0.0.1")
	serve.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { serve.Process.Kill(); serve.Wait() })
	covey := func(args ...string) string {
		cmd := exec.Command(bin+"/covey", args...)
		cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+h.path("home"), "HOME="+h.path("home"))
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("covey %q: %v: %s", args, err, &said)
		}
		return string(out)
	}
	for end := time.Now().Add(patience); !exists(fleet + "/endpoints.json"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the controller does not start")
		}
	}
	covey("login", "--data", fleet)
	token := strings.TrimSpace(covey("device", "token"))
	base := []string{"setup", "--yes", "--device", "porch", "--camera", "test", "--model", "none"}
	out, err := h.run("", append(base, "--join", token)...)
	if err != nil || !strings.Contains(out, "ok, as porch") || strings.Contains(out, token) {
		t.Fatalf("%v: %s", err, out)
	}
	id, err := agent.LoadIdentity(h.path("data"))
	if err != nil || id == nil || id.ID != "porch" {
		t.Fatalf("%+v, %v", id, err)
	}
	before := h.read("etc/agent.yaml")
	if out, err := h.run("", base...); err != nil || h.read("etc/agent.yaml") != before || strings.Contains(before, "fleet:") {
		t.Errorf("once more: %v: %s\n%s", err, out, before)
	}
	if out, err := h.run("", append(base[:len(base)-2:len(base)-2], "--model", "/dev/null", "--join", "none")...); err == nil || h.read("etc/agent.yaml") != before {
		t.Errorf("no file: %v: %s", err, out)
	}
	if out, err := h.run("", append(base, "--join", "none")...); err == nil || !strings.Contains(out, "without a fleet") {
		t.Errorf("without model and fleet: %v: %s", err, out)
	}
}

// What is written belongs to whom the service runs as, the configuration to root; a model
// that he may not read is said before.
func TestSetupOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	dir := t.TempDir()
	p := place{config: dir + "/etc/agent.yaml", data: dir, owner: owner{true, 12345, 12346}}
	kept, err := p.configuration("device: a\n")
	if err := errors.Join(err, p.secret(homeSecret, "x")); err != nil || kept != "" {
		t.Fatal(kept, err)
	}
	for name, want := range map[string]string{p.config: "0:12346 640", dir + "/etc/" + homeSecret: "12345:12346 600"} {
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, fi.Mode().Perm()); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for mode, good := range map[fs.FileMode]bool{0o600: false, 0o640: false, 0o644: true} {
		path := filepath.Join(dir, "m.tflite")
		if err := errors.Join(os.WriteFile(path, nil, mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if err := p.lets(path); (err == nil) != good {
			t.Errorf("%o: %v", mode, err)
		}
	}
	if err := p.lets(dir + "/etc/" + homeSecret); err != nil {
		t.Error(err)
	}
}

func TestParseCamera(t *testing.T) {
	list := []hal.Input{{Source: "v4l2", ID: "usb-046d:0825-A1"}, {Source: "csi", ID: "1"}}
	for text, want := range map[string]string{
		"1":                    `{type: v4l2, device: "usb-046d:0825-A1"}`,
		"2":                    `{type: csi, camera: 1, width: 1280, height: 720, fps: 10}`,
		"/dev/null":            `{type: v4l2, device: "/dev/null"}`,
		"test":                 `{type: synthetic, width: 640, height: 480, fps: 2, live: true}`,
		"rtsp://u:hunter2@h/s": `{type: rtsp, url: "rtsp://h/s", user: "u", width: 640, height: 360, fps: 5}`,
		"http://h/v?a=b":       `{type: mjpeg, url: "http://h/v?a=b"}`,
		"/tmp":                 `{type: folder, path: "/tmp", watch: true}`,
		"":                     "", "0": "", "3": "", "csi:16": "", "csi:x": "", "v4l2:": "", "ftp://h": "", "rtsp://": "", "http://u:hunter2@h:x/": "", "/dev/absent": "", "/dev/null/x": "",
	} {
		c, err := parseCamera(text, list)
		if (err == nil) != (want != "") || err == nil && c.yaml() != want || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %s, %v; want %s", text, c.yaml(), err, want)
		}
		if err == nil && strings.Contains(c.what, "hunter2") {
			t.Errorf("%q shows the password", text)
		}
	}
}

// Whatever is answered makes a configuration that the agent takes, and that says what was
// answered.
func FuzzSetup(f *testing.F) {
	f.Add("rtsp://u:p@h/s", "mqtt://u@h:1", "person, cat", "/m.tflite")
	f.Add("http://h/\" #", "mqtts://a\x00b", "\"}: ,[", "a: b\n")
	f.Fuzz(func(t *testing.T, source, address, labels, model string) {
		c, err := parseCamera(source, nil)
		if err != nil || strings.HasPrefix(source, "/dev") {
			c = camera{keys: [][2]string{{"type", "csi"}}}
		}
		b, err := parseBroker(address)
		if err != nil {
			b = broker{}
		}
		names, err := parseLookFor(labels, nil)
		if err != nil {
			names = nil
		}
		a := answers{defaultData: true, camera: c, broker: b, lookFor: names, model: "/" + model, pictures: nowhere}
		file, err := agent.ParseFile("f", "/etc/covey", []byte(a.yaml()))
		if err != nil {
			return // it is shown, and nothing is written
		}
		if len(file.Pipelines) != 1 || (file.Home != nil) != (b.url != "") || file.Privacy.Class != "numbers" || file.Local != nil || len(file.Pipelines[0].Events.Labels) != len(names) {
			t.Fatalf("%+v of\n%s", file, a.yaml())
		}
	})
}
