package fleet

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/covey-edge/covey/fleet/blob"
	"github.com/covey-edge/covey/fleet/trust"
)

// fileDirector is the key that signs what is wanted of each device.
const fileDirector = "director.key"

// director reads the controller's key, and makes it the first time. It lies in the
// open, since nobody is there to type a passphrase: what it can sign is bounded by what
// people have signed, and they can take it away.
func (s *Server) director() (trust.Signer, error) {
	path := s.path(fileDirector)
	b, err := blob.ReadFile(s.fs, path, 16<<10)
	if errors.Is(err, fs.ErrNotExist) {
		k, err := trust.NewKey()
		if err != nil {
			return nil, err
		}
		if b, err = k.Seal(nil); err != nil {
			return nil, err
		}
		return k, blob.WriteFile(s.fs, path, b)
	}
	if err == nil {
		err = trust.CheckMode(path)
	}
	if err != nil {
		return nil, err
	}
	k, err := trust.OpenKey(b, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put a backup in its place, or move it away and name the new one to boards: covey trust root rotate --director", path, err)
	}
	return k, nil
}
