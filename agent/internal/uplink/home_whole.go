package uplink

import (
	"math"

	"github.com/covey-edge/covey/fleet/wire"
)

// wholeCapabilities has lists where none were given: JSON says null of those.
func wholeCapabilities(c wire.HomeCapabilities) wire.HomeCapabilities {
	c.Pipelines = append([]wire.HomePipeline{}, c.Pipelines...)
	for i := range c.Pipelines {
		p := &c.Pipelines[i]
		p.Zones = append([]string{}, p.Zones...)
		p.Labels = append([]wire.HomeLabel{}, p.Labels...)
		p.Settings = append([]wire.HomeSetting{}, p.Settings...)
	}
	return c
}

// wholeDiagnostics has 0 for what JSON cannot say.
func wholeDiagnostics(d wire.HomeDiagnostics) wire.HomeDiagnostics {
	pipelines := map[string]wire.HomePipelineDiagnosis{}
	for name, p := range d.Pipelines {
		p.FPS, p.Latency = finite(p.FPS), finite(p.Latency)
		pipelines[name] = p
	}
	d.Pipelines = pipelines
	d.CPU, d.Memory, d.Disk = finite(d.CPU), finite(d.Memory), finite(d.Disk)
	if t := d.Temperature; t != nil && finite(*t) != *t {
		d.Temperature = nil
	}
	return d
}

// finite is f, or 0 for what JSON cannot say.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}
