package sandbox

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// root is a root folder of files.
func root(files map[string]string) fstest.MapFS {
	fs := fstest.MapFS{}
	for name, text := range files {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fs
}

func TestDiagnose(t *testing.T) {
	good := kernel{landlock: 2}
	for _, c := range []struct {
		name    string
		subject string
		kernel  kernel
		files   map[string]string
		ok      bool
		detail  string
		fix     string
	}{
		{"landlock", "landlock", good, nil, true, "version 2", ""},
		{"landlock is off", "landlock", kernel{landlockErr: unix.EOPNOTSUPP}, map[string]string{lsmFile: "capability,yama", "etc/default/grub": ""},
			false, "switched off", "lsm=landlock,capability,yama to the kernel's command line (GRUB"},
		{"landlock is off on a Raspberry Pi", "landlock", kernel{landlockErr: unix.EOPNOTSUPP},
			map[string]string{lsmFile: "capability,apparmor\n", raspberry: "console=tty1"}, false, "switched off", "add lsm=landlock,capability,apparmor to the one line of /boot/firmware/cmdline.txt and reboot"},
		{"landlock was left out", "landlock", kernel{landlockErr: unix.ENOSYS}, nil, false, "built without", "CONFIG_SECURITY_LANDLOCK"},
		{"landlock is forbidden", "landlock", kernel{landlockErr: unix.EPERM}, nil, false, "forbidden", "landlock_create_ruleset"},
		{"landlock is on and forbidden", "landlock", kernel{landlockErr: unix.ENOSYS}, map[string]string{lsmFile: "capability,landlock"}, false, "does not answer", "landlock_create_ruleset"},
		{"seccomp", "seccomp", good, nil, true, "can be set", ""},
		{"no seccomp", "seccomp", kernel{seccompErr: unix.EINVAL}, nil, false, "no runner is started", "CONFIG_SECCOMP_FILTER"},
		{"privileges", "no_new_privs", good, nil, true, "", ""},
		{"no privileges", "no_new_privs", kernel{privsErr: unix.EINVAL}, nil, false, "no runner is started", "Linux 3.5"},
		{"no cgroup", "cgroup", good, nil, false, "no cgroup v2", "Delegate=yes"},
		{"cgroup v1", "cgroup", good, map[string]string{cgroupsFile: "memory pids", ownGroup: "4:memory:/x\n0::/\n"}, false, "v1", "Delegate=yes"},
		{"a Raspberry Pi as it comes", "cgroup", good, map[string]string{cgroupsFile: "cpu pids", ownGroup: "0::/a\n"}, false, "do not count memory", "cgroup_enable=memory"},
		{"a session", "cgroup", good, map[string]string{cgroupsFile: "memory pids", ownGroup: "0::/a\n", "sys/fs/cgroup/a/cgroup.controllers": "pids"}, false, "no control of memory", "Delegate=yes"},
		{"a service", "cgroup", good, map[string]string{cgroupsFile: "memory pids", ownGroup: "0::/a\n", "sys/fs/cgroup/a/cgroup.controllers": "memory pids"}, true, "/sys/fs/cgroup/a", ""},
		{"a service that has divided it", "cgroup", good, map[string]string{cgroupsFile: "memory pids", ownGroup: "0::/a/agent\n", "sys/fs/cgroup/a/cgroup.controllers": "memory pids"}, true, "/sys/fs/cgroup/a", ""},
		{"a hostile name", "cgroup", good, map[string]string{cgroupsFile: "memory pids", ownGroup: "0::/../../etc\n"}, false, "cannot be read", "Delegate=yes"},
	} {
		found := false
		for _, d := range diagnose(root(c.files), c.kernel) {
			if strings.ContainsAny(d.Detail+d.Fix, "\n") || d.OK != (d.Fix == "") || d.Detail == "" {
				t.Errorf("%s: %+v: want one line each, and a fix where something is wrong", c.name, d)
			}
			if !strings.Contains(d.Subject, c.subject) {
				continue
			}
			found = true
			if d.OK != c.ok || !strings.Contains(d.Detail, c.detail) || !strings.Contains(d.Fix, c.fix) {
				t.Errorf("%s: %+v, want %v, %q, %q", c.name, d, c.ok, c.detail, c.fix)
			}
		}
		if !found {
			t.Errorf("%s: nothing of %s", c.name, c.subject)
		}
	}
}

// TestExamine asks this kernel.
func TestExamine(t *testing.T) {
	for _, d := range Examine(os.DirFS("/")) {
		t.Logf("%+v", d)
	}
}

func TestHandled(t *testing.T) {
	if a := handled(0); a != (unix.LandlockRulesetAttr{}) {
		t.Errorf("version 0: %+v", a)
	}
	if a := handled(1); a.Handled_access_fs != 0x1fff || a.Handled_access_net != 0 || a.Scoped != 0 {
		t.Errorf("version 1: %+v", a)
	}
	if a := handled(7); a.Handled_access_fs != 0xffff || a.Handled_access_net != 3 || a.Scoped != 3 {
		t.Errorf("version 7: %+v", a)
	}
	if handled(9) != handled(99) {
		t.Error("a version that is not known yet brings nothing")
	}
}
