"""Delivery reports from HTTP webhooks to gRPC status updates."""
