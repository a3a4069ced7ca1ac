package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/covey-edge/covey/hal"
)

// A secret may be a credential of the service instead of a file: systemd reads it, or
// decrypts it, for this service alone (LoadCredential=, LoadCredentialEncrypted=). It is
// written credential:<name> where else a path stands.
const credentialPrefix = "credential:"

var credentialName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// secretPath is the file that holds a secret: the path itself, or where the service
// manager has put the credential.
func secretPath(path string) (string, error) {
	name, is := strings.CutPrefix(path, credentialPrefix)
	if !is {
		return path, nil
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf(
			"credential %s: this program was given none: add LoadCredential=%s:<file> to the service (systemctl edit covey-agent)", name, name)}
	}
	return filepath.Join(dir, name), nil
}

// stateFolder is where the service manager wants state to be kept, or DefaultData.
func stateFolder() string {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	return DefaultData
}
