package firmware

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"strings"
)

// MachineID is a hash that tells this machine from another with a copy of its
// disk: of the machine id and the board's serial number, where there are any. It
// gives neither away. "" when nothing tells.
func MachineID(root fs.FS) string {
	id := strings.TrimSpace(read(root, "etc/machine-id"))
	serial := clean(read(root, "sys/firmware/devicetree/base/serial-number") + read(root, "sys/class/dmi/id/product_uuid"))
	if id == "" && serial == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("covey machine\x00" + id + "\x00" + serial))
	return hex.EncodeToString(sum[:8])
}
