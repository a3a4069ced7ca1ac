package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/covey-edge/covey/agent"
	"github.com/covey-edge/covey/agent/internal/health"
	"github.com/covey-edge/covey/agent/internal/pulse"
	"github.com/covey-edge/covey/hal/runner"
)

// A server runs agents of this process, one after the other: another one when the
// configuration has changed. It answers to the service manager for all of them.
type server struct {
	config  string // path
	service *health.Service
	units   *runner.Units // nil: runners are started by the agent itself
	loop    *pulse.Loop   // its own
	again   <-chan os.Signal
}

// A plan is an agent that could run now.
type plan struct {
	file   *agent.File
	agent  agent.Config
	renew  *renewal // nil: no fleet
	log    zerolog.Logger
	forget func()      // what is in memory instead of on the disk
	before *agent.File // what ran before, to go back to while this one is not up; nil: nothing
}

const (
	openTime = 5 * time.Minute  // that an agent may take to read what is on its disk, and check it
	stopTime = 5 * time.Minute  // that it may take to end
	calmTime = 20 * time.Second // after which what only a start needs is given back
)

// serve runs the agent of a configuration until ctx ends.
func serve(ctx context.Context, config string) error {
	again := make(chan os.Signal, 1)
	if !term.IsTerminal(int(os.Stdin.Fd())) { // there it means that the terminal has gone
		signal.Notify(again, syscall.SIGHUP)
		defer signal.Stop(again)
	}
	manager, watchdog := health.Manager(os.Getenv, os.Getpid())
	for _, name := range health.ManagerVariables {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	file, err := agent.ReadFile(config)
	log := logger(os.Stderr, levelOf(file))
	board := &pulse.Board{Promise: health.PromiseFor(watchdog), OnBeat: stall()}
	units := units(log)
	if units != nil {
		defer units.Close()
	}
	s := &server{config: config, again: again, loop: board.Loop("main"), units: units,
		service: &health.Service{Send: manager.Send, Watchdog: watchdog, Loops: board, Log: log}}
	s.service.Start()
	speaking, hush := context.WithCancel(context.WithoutCancel(ctx))
	var service sync.WaitGroup
	service.Go(func() { s.service.Run(speaking) })
	defer service.Wait()
	defer hush()
	if err == nil {
		err = s.run(ctx, file)
	}
	s.service.Stop(err)
	return err
}

func levelOf(file *agent.File) string {
	if file == nil {
		return ""
	}
	return file.Log
}

// run runs agents until ctx ends, or one ends with an error that no other
// configuration is to blame for.
func (s *server) run(ctx context.Context, file *agent.File) error {
	now, err := s.plan(file)
	for err == nil {
		var next *plan
		next, err = s.once(ctx, now)
		switch {
		case ctx.Err() != nil:
			return err
		case next != nil:
			next.before = now.file
			now, err = next, nil
		case errors.Is(err, agent.ErrReconfigured):
			now, err = s.plan(now.file)
		case err != nil && now.before != nil && !s.service.Up():
			now.log.Error().Err(err).Msg("the new configuration does not work: the one before goes on")
			why := err
			s.service.Start()
			s.service.Refuse(why)
			now, err = s.plan(now.before)
			continue
		default:
			return err
		}
		s.service.Start()
	}
	return err
}

// plan makes an agent out of a configuration. Nothing runs yet, and what runs is not
// touched.
func (s *server) plan(file *agent.File) (*plan, error) {
	p := &plan{file: file, log: logger(os.Stderr, file.Log)}
	there, forget, err := onDisk(file, p.log)
	if err != nil {
		return nil, err
	}
	if p.agent, p.renew, err = assemble(there, s.units, p.log); err != nil {
		forget()
		return nil, err
	}
	p.agent.Pulse, p.agent.InMemory, p.forget = s.service.Loops, there != file, forget
	return p, nil
}

// once runs an agent until it ends, or another one is to run in its place, which it
// returns: the configuration has changed.
func (s *server) once(ctx context.Context, p *plan) (*plan, error) {
	defer p.forget()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hurry(ctx, p.agent.Engines)
	var renewing sync.WaitGroup
	if p.renew != nil {
		renewing.Go(func() { p.renew.run(ctx, p.agent.Pulse.Loop("certificate")) })
	}
	defer renewing.Wait()
	defer cancel()
	start := p.agent.Pulse.Loop("start") // until its loops are there
	start.Do("opens what is on the disk", openTime)
	started := sync.OnceFunc(start.End)
	defer started()
	p.agent.Standing = func(st agent.Standing) { started(); s.service.Stand(st.Settled, st.Text) }
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx, p.agent) }() // ended is waited for below
	s.loop.Beat()
	calm := time.NewTimer(calmTime)
	defer calm.Stop()
	for {
		select {
		case err := <-ended:
			return nil, err
		case <-calm.C:
			if err := unload(); err != nil {
				p.log.Warn().Err(err).Msg("memory of the start is kept")
			}
		case <-s.loop.Pulse():
			s.loop.Beat()
		case <-s.again:
			next, err := s.reload()
			if err != nil {
				p.log.Error().Err(err).Msg("configuration refused, what ran goes on")
				s.service.Refuse(err)
				continue
			}
			p.log.Info().Msg("configuration read again: the agent starts anew")
			s.loop.Do("ends what ran", stopTime)
			cancel()
			if err := <-ended; err != nil {
				p.log.Error().Err(err).Msg("what ran before has ended with an error")
			}
			return next, nil
		}
	}
}

// reload reads the configuration again.
func (s *server) reload() (*plan, error) {
	s.service.Reload()
	s.loop.Do("reads the configuration", openTime)
	defer s.loop.Beat()
	file, err := agent.ReadFile(s.config)
	if err != nil {
		return nil, err
	}
	return s.plan(file)
}
