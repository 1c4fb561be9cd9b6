//! End to end on a real Apache Kafka: one broker a run, the services as the processes people run.

mod bad_input;
mod balancing;
mod commands;
mod database;
mod delivery;
mod doubt;
mod examples;
mod explain;
mod facts;
mod frozen;
mod harness;
mod letters;
mod lifecycle;
mod models;
mod outage;
mod packages;
mod protocols;
mod pushes;
mod redrive;
mod registry;
mod rolling;
mod serving;
mod surface;
mod telemetry;
mod traces;
mod truncation;
