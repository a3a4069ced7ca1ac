// Package e2e runs the programs together as a person would: a real controller
// with its broker and database, real agents with real runners and models, real
// pictures. The programs are those that ./scripts/setup leaves in bin.
package e2e
