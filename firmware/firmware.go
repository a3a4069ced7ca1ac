// Package firmware is what a board has beneath the agent: its service, an example
// of its configuration, and the answer to which board it is.
package firmware

import _ "embed"

// AgentUnit is the systemd unit of covey-agent.
//
//go:embed systemd/covey-agent.service
var AgentUnit string

// RunnerSocket is the systemd unit by which the agent has runners started, and
// RunnerUnit what is started for each.
var (
	//go:embed systemd/covey-runner.socket
	RunnerSocket string
	//go:embed systemd/covey-runner@.service
	RunnerUnit string
)

// ExampleConfig is a commented configuration file that works once its paths and
// addresses are right.
//
//go:embed agent.example.yaml
var ExampleConfig string
