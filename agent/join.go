package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/covey-edge/covey/agent/internal/annotate"
	"github.com/covey-edge/covey/agent/internal/identity"
	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
)

// Identity is who a board is to its controller.
type Identity = identity.Identity

const maxIdentity = 64 << 10

// IdentityPath is the file in a data folder that holds the board's key.
func IdentityPath(data string) string { return filepath.Join(data, "identity", "identity.json") }

// Join enrols the board at the controller that the token names, and keeps what
// it is given in the data folder. A board that joined before joins anew: its old
// key is replaced when the new one is there.
func Join(ctx context.Context, file *File, t wire.JoinToken) (wire.DeviceID, error) {
	device, err := file.DeviceName()
	if err != nil {
		return "", err
	}
	if err := (blob.OS{}).MkdirAll(filepath.Dir(IdentityPath(file.Data))); err != nil {
		return "", fmt.Errorf("data folder %s: %w; run it as the user that the agent runs as", file.Data, blob.Coded(err, file.Data))
	}
	id, err := identity.Join(ctx, t, device)
	if err != nil {
		return "", err
	}
	return id.ID, SaveIdentity(file.Data, id)
}

// LoadIdentity reads the identity of a board; nil when it never joined a fleet.
func LoadIdentity(data string) (*Identity, error) {
	b, err := blob.ReadFile(blob.OS{}, IdentityPath(data), maxIdentity)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	return identity.Parse(b)
}

// SaveIdentity keeps an identity, readable by this user alone.
func SaveIdentity(data string, id *Identity) error {
	if err := blob.WriteFile(blob.OS{}, IdentityPath(data), id.Encode()); err != nil {
		return fmt.Errorf("keep identity: %w", err)
	}
	return nil
}

// Annotate writes a picture with what was seen in it, as JPEG.
func Annotate(path string, f *hal.Frame, r *wire.Result) error {
	var b bytes.Buffer
	if err := annotate.JPEG(&b, f, r); err != nil {
		return fmt.Errorf("draw %s: %w", path, err)
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
