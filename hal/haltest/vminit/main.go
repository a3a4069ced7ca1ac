// Command vminit is the first process of a haltest.Machine: it mounts what a test
// expects, loads the modules, runs the test and switches the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	code := 1
	if err := prepare(); err != nil {
		fmt.Println("vminit:", err)
	} else {
		code = test()
	}
	fmt.Printf("\nCOVEY-VM-EXIT %d\n", code)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // the machine ends instead: -no-reboot
}

func prepare() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"securityfs", "/sys/kernel/security"},
		{"debugfs", "/sys/kernel/debug"}, {"configfs", "/sys/kernel/config"}, {"cgroup2", "/sys/fs/cgroup"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && m[0] != "configfs" && m[0] != "securityfs" {
			return fmt.Errorf("mount %s: %w", m[0], err)
		}
	}
	for _, dir := range []string{"/dev/shm", "/dev/pts"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", 0, "ptmxmode=666"); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	if err := loopback(); err != nil {
		return err
	}
	return load()
}

// loopback brings the interface lo up.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var request struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = unix.IFF_UP | unix.IFF_RUNNING
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("bring lo up: %w", errno)
	}
	return nil
}

// load loads the modules of /modules/load, a line each: the file, its parameters.
func load() error {
	list, err := os.ReadFile("/modules/load")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		file, parameters, _ := strings.Cut(strings.TrimSpace(line), " ")
		if file == "" {
			continue
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), parameters, 0); err != nil && err != unix.EEXIST {
			return fmt.Errorf("load %s: %w", file, err)
		}
		f.Close()
	}
	return nil
}

// test runs the test program with the words behind "--" on the kernel's command line.
func test() int {
	cmd := exec.Command("/test", os.Args[1:]...)
	cmd.Env = []string{"COVEY_VM=1", "HOME=/tmp", "PATH=/bin:/usr/bin"}
	cmd.Dir = "/tmp"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	err := cmd.Run()
	if err == nil {
		return 0
	}
	fmt.Println("vminit:", err)
	return 1
}
