package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal/haltest"
)

func TestDelegate(t *testing.T) {
	const vx = lib + "libvx_delegate.so"
	for _, c := range []struct {
		name    string
		files   map[string]string
		change  func(*Board)
		library string
		detail  string
		fix     string // "": it is all right
	}{
		{"by its name", map[string]string{vx: "", "dev/galcore": ""}, nil, "libvx_delegate.so", "/" + vx, ""},
		{"by its path", map[string]string{"opt/x/libvx.so": "", "dev/galcore": ""}, nil, "/opt/x/libvx.so", "/opt/x/libvx.so", ""},
		{"where Debian has it", map[string]string{"usr/lib/teflon/libteflon.so": "", "dev/galcore": ""}, nil, "libteflon.so", "/usr/lib/teflon", ""},
		{"not here", nil, nil, "libvx_delegate.so", "is not here", "install it"},
		{"not at its path", map[string]string{vx: ""}, nil, "/opt/libvx_delegate.so", "is not here", "install it"},
		{"no pattern", map[string]string{vx: ""}, nil, "lib[", "is not here", "install it"},
		{"without its driver", map[string]string{vx: ""}, nil, "libvx_delegate.so", "no /dev/galcore", "load the driver"},
		{"without permission", map[string]string{vx: "", "dev/galcore": ""}, forbid, "libvx_delegate.so", "/dev/galcore cannot be opened", "usermod -aG $(stat -c %G /dev/galcore) covey"},
	} {
		b := board(c.files)
		if c.change != nil {
			c.change(&b)
		}
		d := Delegate(b, c.library, []string{"/dev/galcore"})
		if !strings.Contains(d.Detail, c.detail) || d.OK != (c.fix == "") || !strings.Contains(d.Fix, c.fix) {
			t.Errorf("%s: %+v", c.name, d)
		}
	}
}

func TestModel(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		file []byte
		want string // "": it is all right
	}{
		"good.tflite":   {haltest.AddModel(), ""},
		"custom.tflite": {haltest.CustomModel("Mystery"), "E_OP"},
		"empty.tflite":  {[]byte{}, "E_MODEL_EMPTY"},
		"gone.tflite":   {nil, "no such file"},
	} {
		path := filepath.Join(dir, name)
		if c.file != nil {
			if err := os.WriteFile(path, c.file, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if d := Model("cam", path); d.Subject != "model of pipeline cam" || d.OK != (c.want == "") || !strings.Contains(d.Detail, c.want) || d.OK != (d.Fix == "") {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
