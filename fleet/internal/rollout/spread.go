package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"

	"github.com/covey-edge/covey/fleet/internal/policy"
	"github.com/covey-edge/covey/fleet/wire"
)

// A Match is the devices of a query.
type Match func(query string) (map[wire.DeviceID]bool, error)

// Assign says which target is in which phase. Targets that are refused are in none,
// and so is who is left when no phase takes the rest. Every phase is spread over
// sites and variants, and takes first who is online: a canary that is not there proves
// nothing. Which devices it are depends on the release, so that it is not always the
// same ones that go first, and on nothing else.
func Assign(p policy.Policy, digest wire.Digest, ts []Target, match Match) error {
	p = p.Filled()
	total := 0
	for i := range ts {
		ts[i].Phase = -1
		if ts[i].Refusal == nil {
			total++
		}
	}
	line, taken := spread(digest, ts), 0
	for n, phase := range p.Phases {
		take := func(i int) { ts[i].Phase = n; taken++ }
		if phase.Query != "" {
			in, err := match(phase.Query)
			if err != nil {
				return err
			}
			for _, i := range line {
				if ts[i].Phase < 0 && in[ts[i].Device] {
					take(i)
				}
			}
			continue
		}
		upTo := taken + phase.Count
		if phase.Percent > 0 {
			upTo = int(math.Ceil(float64(total) * phase.Percent / 100))
		}
		for _, i := range line {
			if taken >= upTo {
				break
			}
			if ts[i].Phase < 0 {
				take(i)
			}
		}
	}
	return nil
}

// spread is the indexes of all targets that are not refused, in the order in which
// they get it: one of each site and variant in turn, who is online first.
func spread(digest wire.Digest, ts []Target) []int {
	type kind struct {
		site    string
		variant wire.Digest
	}
	var line []int
	lot := make([]uint64, len(ts))
	for i, t := range ts {
		if t.Refusal == nil {
			line = append(line, i)
			sum := sha256.Sum256([]byte(string(digest) + "/" + string(t.Device)))
			lot[i] = binary.BigEndian.Uint64(sum[:])
		}
	}
	offline := func(i int) int {
		if ts[i].Online {
			return 0
		}
		return 1
	}
	byLot := func(a, b int) int {
		return cmp.Or(cmp.Compare(lot[a], lot[b]), cmp.Compare(ts[a].Device, ts[b].Device))
	}
	slices.SortFunc(line, func(a, b int) int { return cmp.Or(offline(a)-offline(b), byLot(a, b)) })
	turn, seen := make([]int, len(ts)), map[kind]int{}
	for _, i := range line {
		k := kind{ts[i].Site, ts[i].SHA256}
		turn[i] = seen[k]
		seen[k]++
	}
	slices.SortStableFunc(line, func(a, b int) int { return cmp.Or(offline(a)-offline(b), turn[a]-turn[b]) })
	return line
}

// joining says which phase a device that comes later is in: that of a query that it is
// in, else the last one.
func joining(p policy.Policy, match Match) (func(wire.DeviceID) int, error) {
	in := make([]map[wire.DeviceID]bool, len(p.Phases)) // nil: of a phase without a query
	for i, phase := range p.Phases {
		if phase.Query == "" {
			continue
		}
		var err error
		if in[i], err = match(phase.Query); err != nil {
			return nil, err
		}
	}
	return func(id wire.DeviceID) int {
		if i := slices.IndexFunc(in, func(m map[wire.DeviceID]bool) bool { return m[id] }); i >= 0 {
			return i
		}
		return len(p.Phases) - 1
	}, nil
}
