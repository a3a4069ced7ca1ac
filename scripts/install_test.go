package scripts

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/covey-edge/covey/hal/haltest/port"
)

// A system is the root of a Debian system in a folder, with dpkg's own database and
// nothing installed. dpkg and the packages' scripts work on it from outside.
type system struct {
	*testing.T
	root   string
	broker string // host:port of the house's broker, which need not be there
}

// newSystem makes one with the groups that Debian has.
func newSystem(t *testing.T) *system {
	s := &system{t, t.TempDir(), port.Free(t)}
	for path, text := range map[string]string{
		"var/lib/dpkg/status": "", "var/lib/dpkg/updates/.keep": "", "var/lib/dpkg/info/.keep": "", "var/lib/dpkg/triggers/.keep": "",
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n", "etc/shadow": "root:*:1::::::\n", "etc/gshadow": "root:*::\n",
		"etc/group":                          "root:x:0:\ntty:x:5:\ndialout:x:20:\naudio:x:29:\nvideo:x:44:\nplugdev:x:46:\nrender:x:104:\n",
		"etc/systemd/system.control/.keep":   "",
		"etc/systemd/system/other.service":   "somebody's\n",
		"etc/credstore.encrypted/other.cred": "somebody's\n",
		"usr/bin/.keep":                      "", "usr/lib/.keep": "", "run/other": "somebody's\n", "var/cache/.keep": "",
	} {
		s.write(path, text)
	}
	return s
}

func (s *system) write(path, text string) {
	s.Helper()
	path = filepath.Join(s.root, path)
	for _, err := range []error{os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)} {
		if err != nil {
			s.Fatal(err)
		}
	}
}

// dpkg runs the real one and gives back what it says.
func (s *system) dpkg(args ...string) (string, error) {
	args = append([]string{"--root=" + s.root, "--force-script-chrootless", "--force-depends", "--log=/dev/null"}, args...)
	cmd := exec.Command("dpkg", args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// does is dpkg where it has to succeed.
func (s *system) does(args ...string) {
	s.Helper()
	if out, err := s.dpkg(args...); err != nil {
		s.Fatalf("dpkg %v: %v\n%s", args, err, out)
	}
}

// version is the version of the agent's package that is installed, "" for none.
func (s *system) version() string {
	out, _ := exec.Command("dpkg-query", "--admindir="+s.root+"/var/lib/dpkg", "-W", "-f", "${Version} ${db:Status-Abbrev}", "covey-agent").Output()
	version, status, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if status != "ii" {
		return ""
	}
	return version
}

const houseConfig = `device: cellar
data: ../../var/lib/covey
home: {broker: "mqtt://BROKER"}
pipelines:
  cam:
    source: {type: synthetic, width: 64, height: 64, count: 5}
    model: MODEL
`

// configure does what an owner does after the installation.
func (s *system) configure() {
	s.write("etc/covey/agent.yaml", strings.NewReplacer("BROKER", s.broker, "MODEL", os.Getenv("COVEY_MODELS")+"/label_image/mobilenet_quant_v1_224.tflite").Replace(houseConfig))
}

// run runs the installed agent until its five pictures are seen and written down, and
// gives back what it logged. It ends early with an agent that ends by itself.
func (s *system) run() string {
	s.Helper()
	return s.until(func(line string) bool { return strings.Contains(line, `"message":"pipeline ends"`) })
}

// until runs the installed agent until done says so of a line of its log.
func (s *system) until(done func(line string) bool) string {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), s.root+"/usr/bin/covey-agent", "run", "--config", s.root+"/etc/covey/agent.yaml")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	var log strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		log.WriteString(lines.Text() + "\n")
		if done(lines.Text()) {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may be on its way out
		}
	}
	_ = cmd.Wait() // the log says how it ended
	return log.String()
}

// kept is what lies in the data folder, file by file.
func (s *system) kept() map[string]string { return listing(s.T, s.root+"/var/lib/covey") }

// lifecycleNeeds skips where the real parts are missing.
func lifecycleNeeds(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("packages for this machine are not built here")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: the user of the service owns his folders")
	}
	for _, p := range []string{"dpkg", "systemd-sysusers", "systemd-tmpfiles", "userdel", "mosquitto", "mosquitto_sub"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("no %s here", p)
		}
	}
	if _, err := os.Stat(os.Getenv("COVEY_MODELS") + "/label_image"); err != nil {
		t.Skip("no models here: . scripts/env && scripts/setup --fetch")
	}
}

// agentOf builds the package of an agent of a version whose files have that format.
func agentOf(t *testing.T, version string, format int) string {
	t.Helper()
	replace := map[string]string{}
	for _, path := range []string{"../agent/internal/slots/store.go", "../agent/internal/uplink/file.go"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), "Format = 1\n", "Format = "+strconv.Itoa(format)+"\n", 1)
		if format != 1 && changed == string(text) {
			t.Fatalf("%s has no Format = 1: teach this test the new number", path)
		}
		there := filepath.Join(t.TempDir(), filepath.Base(path))
		if err := os.WriteFile(there, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		path, err = filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		replace[path] = there
	}
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return makePackages(t, "..", version, []string{"COVEY_OVERLAY=" + overlay}, "--only", "covey-agent", "amd64") + "/covey-agent_amd64.deb"
}

// TestInstalled is the life of the agent's package on real dpkg, with three releases
// that each write a format of their own: what was kept stays, or the package says no.
func TestInstalled(t *testing.T) {
	lifecycleNeeds(t)
	var debs [4]string // by version
	for v := 1; v <= 3; v++ {
		debs[v] = agentOf(t, strconv.Itoa(v)+".0.0", v)
	}
	t.Run("purge", func(t *testing.T) { purged(newSystem(t), debs[1]) })
	t.Run("upgrades", func(t *testing.T) { upgraded(newSystem(t), debs) })
	for from := 1; from <= 3; from++ {
		for to := 1; to <= 3; to++ {
			t.Run(strconv.Itoa(from)+" to "+strconv.Itoa(to), func(t *testing.T) { replaced(newSystem(t), debs, from, to) })
		}
	}
}

// purged: a purge leaves what was there before, and nothing else.
func purged(s *system, deb string) {
	before := listing(s.T, s.root)
	s.does("-i", deb)
	for path, mode := range map[string]os.FileMode{"var/lib/covey": 0o700, "etc/covey": 0o755} {
		info, err := os.Stat(filepath.Join(s.root, path))
		if err != nil || info.Mode().Perm() != mode {
			s.Fatalf("%s: %v, %v", path, info, err)
		}
	}
	group, err := os.ReadFile(s.root + "/etc/group")
	if err != nil {
		s.Fatal(err)
	}
	for _, name := range []string{"video", "audio", "dialout", "plugdev", "render", "apex", "gpio", "iio"} {
		if !strings.Contains("\n"+string(group), "\n"+name+":") || !strings.Contains(memberLine(string(group), name), "covey") {
			s.Errorf("covey is not in the group %s", name)
		}
	}
	s.configure()
	if log := s.run(); !strings.Contains(log, `"published":5`) {
		s.Fatalf("the installed agent says:\n%s", log)
	}
	// What an owner adds, and what the service has while it runs.
	for _, path := range []string{"etc/credstore.encrypted/covey.home-password", "etc/credstore/covey.token", "etc/covey/home.password",
		"etc/systemd/system/covey-agent.service.d/own.conf", "etc/systemd/system/multi-user.target.wants/covey-agent.service",
		"run/covey-agent/socket", "var/cache/covey/thing"} {
		s.write(path, "secret\n")
	}

	s.does("-r", "covey-agent")
	if _, err := os.Stat(s.root + "/usr/lib/covey"); err == nil {
		s.Error("programs are left behind by a removal")
	}
	if len(s.kept()) == 0 {
		s.Error("a removal took the data")
	}
	s.does("-P", "covey-agent")
	for path, sum := range listing(s.T, s.root) {
		if strings.HasPrefix(path, "var/lib/dpkg/") || strings.HasSuffix(path, "-") || path == "etc/.pwd.lock" {
			continue // dpkg's, and the tools' copies of what was there before
		}
		if before[path] != sum {
			s.Errorf("after the purge %s is new or another", path)
		}
	}
	for _, dir := range []string{"var/lib/covey", "etc/covey", "usr/lib/covey", "usr/share/doc/covey-agent"} {
		if _, err := os.Stat(filepath.Join(s.root, dir)); err == nil {
			s.Errorf("after the purge there is still %s", dir)
		}
	}
}

// memberLine is the line of a group.
func memberLine(group, name string) string {
	for line := range strings.Lines(group) {
		if strings.HasPrefix(line, name+":") {
			return line
		}
	}
	return ""
}

// replaced: where one version was at work, another is installed.
func replaced(s *system, debs [4]string, from, to int) {
	s.does("-i", debs[from])
	s.configure()
	if log := s.run(); !strings.Contains(log, `"published":5`) {
		s.Fatalf("the agent that was there says:\n%s", log)
	}
	before := s.kept()
	out, err := s.dpkg("-i", debs[to])
	if to < from {
		refused(s, debs, from, to, out, err, before)
		return
	}
	if err != nil {
		s.Fatalf("dpkg: %v\n%s", err, out)
	}
	for path, sum := range before {
		if s.kept()[path] != sum {
			s.Errorf("the installation changed %s", path)
		}
	}
	if log := s.run(); !strings.Contains(log, `"published":5`) || strings.Contains(log, "E_STATE") {
		s.Errorf("the agent that was installed says:\n%s", log)
	}
}

// refused: a downgrade over what it cannot read changes nothing and says what to do;
// that works.
func refused(s *system, debs [4]string, from, to int, out string, err error, before map[string]string) {
	was := strconv.Itoa(from) + ".0.0"
	for _, want := range []string{"covey-agent: version " + was + " wrote what this one cannot read (in /etc/covey/../../var/lib/covey: outbox state)", "Keep " + was, "rm "} {
		if err == nil || !strings.Contains(out, want) {
			s.Fatalf("dpkg: %v; want %q\n%s", err, want, out)
		}
	}
	same := func(when string) {
		now := s.kept()
		for path, sum := range before {
			if now[path] != sum || len(now) != len(before) {
				s.Fatalf("%s changed %s", when, path)
			}
		}
	}
	same("a downgrade that was refused")
	if s.version() != was {
		s.Fatalf("installed is %q, want %s", s.version(), was)
	}
	s.does("-r", "covey-agent")
	if out, err := s.dpkg("-i", debs[to]); err == nil {
		s.Fatalf("after a removal the older one goes in:\n%s", out)
	}
	// The program itself, without the package's word.
	s.does("-i", debs[from])
	s.does("--force-downgrade", "--unpack", debs[from])
	older := s.T.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", debs[to], older).CombinedOutput(); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	said, err := exec.Command(older+"/usr/bin/covey-agent", "run", "--config", s.root+"/etc/covey/agent.yaml").CombinedOutput()
	if err == nil || !strings.Contains(string(said), "E_STATE_NEWER") || !strings.Contains(string(said), "Install "+was+" again") {
		s.Fatalf("the older program: %v\n%s", err, said)
	}
	same("an older program")
	// The way out.
	_, rm, _ := strings.Cut(out, "&& rm ")
	rm, _, _ = strings.Cut(rm, "\n")
	rm = strings.ReplaceAll(rm, "/etc/covey/", s.root+"/etc/covey/")
	if out, err := exec.Command("sh", "-ec", "rm "+rm).CombinedOutput(); err != nil {
		s.Fatalf("rm %s: %v\n%s", rm, err, out)
	}
	s.does("-i", debs[to])
	if log := s.run(); !strings.Contains(log, `"published":5`) {
		s.Errorf("after the way out the older agent says:\n%s", log)
	}
}

// upgraded: what three releases have seen while the house's broker was away arrives
// when it is back.
func upgraded(s *system, debs [4]string) {
	for v := 1; v <= 3; v++ {
		s.does("-i", debs[v])
		s.configure()
		if log := s.run(); !strings.Contains(log, `"published":5`) {
			s.Fatalf("version %d says:\n%s", v, log)
		}
	}
	host, number, _ := strings.Cut(s.broker, ":")
	s.write("etc/mosquitto.conf", "listener "+number+" "+host+"\nallow_anonymous true\nuser root\nlog_type all\n")
	broker := exec.CommandContext(s.Context(), "mosquitto", "-c", s.root+"/etc/mosquitto.conf")
	log, err := broker.StderrPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = broker.Process.Kill(); _ = broker.Wait() })
	lines := bufio.NewScanner(log)
	upTo := func(words string) {
		for lines.Scan() {
			if strings.Contains(lines.Text(), words) {
				return
			}
		}
		s.Fatalf("mosquitto never says %q", words)
	}
	upTo("running")
	listener := exec.CommandContext(s.Context(), "mosquitto_sub", "-h", host, "-p", number, "-t", "covey/home/cellar/cam/result", "-C", "20", "-q", "1")
	var results strings.Builder
	listener.Stdout = &results
	if err := listener.Start(); err != nil {
		s.Fatal(err)
	}
	upTo("Sending SUBACK")
	go func() {
		for lines.Scan() { // else mosquitto waits for a reader
		}
	}()
	heard := make(chan error, 1)
	go func() { heard <- listener.Wait() }()
	cmd := exec.CommandContext(s.Context(), s.root+"/usr/bin/covey-agent", "run", "--config", s.root+"/etc/covey/agent.yaml")
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	err = <-heard
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		s.Errorf("the agent ends with %v", err)
	}
	if n := strings.Count(results.String(), "\n"); err != nil || n != 20 {
		s.Errorf("%d results arrived, want the 15 of before and 5 new ones: %v", n, err)
	}
}
